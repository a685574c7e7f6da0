"""A BatchingRetriever's metrics, for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ...errors import InputError, needs

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

OUTCOMES = ("answered", "failed", "invalid", "overloaded", "expired", "cancelled", "closed")
# From a search of a small gallery on a GPU to one of a large gallery behind a full queue on a CPU.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServingMetrics:
    """Counters and histograms for one or more BatchingRetrievers, in their own or the caller's registry.

    caan_search_requests_total{outcome}   requests by outcome: answered, failed (with an error), invalid,
                                          overloaded, expired, cancelled, closed
    caan_search_queue_depth               requests now waiting for their batch
    caan_search_batch_size                histogram: requests per batch
    caan_search_queue_seconds             histogram: from a request's arrival to the start of its batch
    caan_search_seconds                   histogram: from a request's arrival to its answer, answered requests only

    With several server processes, such as gunicorn or uvicorn workers, a scrape reaches one of them but must return
    the sum over all. prometheus-client shares the values through files: before any process imports prometheus_client,
    set PROMETHEUS_MULTIPROC_DIR to a folder that is empty when the server starts. Each process creates its own
    ServingMetrics, and `text` returns the sums over all processes, including ended ones. When a worker ends, call
    `prometheus_client.multiprocess.mark_process_dead(pid)` in its supervisor (gunicorn's `child_exit` hook), so that
    its waiting requests no longer count. Other metrics in the registry are included only if they use the same mode;
    `registry.get_sample_value` returns only this process's values.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Raises MissingError without prometheus-client, InputError if the registry has such metrics already."""
        with needs("metrics", "ServingMetrics"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        self.registry = CollectorRegistry() if registry is None else registry
        registry = self.registry
        try:
            requests = Counter("caan_search_requests", "Requests by how they ended", ["outcome"], registry=registry)
            depth = "caan_search_queue_depth", "Requests that wait for their batch"
            self._depth = Gauge(*depth, registry=registry, multiprocess_mode="livesum")
            self._size = Histogram("caan_search_batch_size", "Requests per batch", registry=registry, buckets=_SIZES)
            self._queue = Histogram(
                "caan_search_queue_seconds", "From arrival to the batch's start", registry=registry, buckets=_SECONDS
            )
            self._total = Histogram(
                "caan_search_seconds", "From arrival to the answer", registry=registry, buckets=_SECONDS
            )
        except ValueError as error:
            raise InputError(
                f"the registry has such metrics already ({error}); give all BatchingRetrievers the same ServingMetrics"
            ) from error
        self._waiting: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        # Outcomes that have not occurred are reported as 0, not absent.
        self._requests = {outcome: requests.labels(outcome) for outcome in OUTCOMES}

    def text(self) -> str:
        """The registry in Prometheus's text format, for /metrics; summed over processes in multi-process mode."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry).decode()

    def waiting(self, queue: object, number: int) -> None:
        """Set the number of a queue's waiting requests."""
        # An absolute value, not a difference: if a signal handler interrupts a call, the next one corrects it.
        self._waiting[queue] = number
        self._depth.set(sum(list(self._waiting.values())))

    def batch(self, waits: Sequence[float]) -> None:
        """A batch started; waits: seconds each of its requests waited."""
        self._size.observe(len(waits))
        for seconds in waits:
            self._queue.observe(seconds)

    def finished(self, outcome: str, seconds: float) -> None:
        """A request ended, `seconds` after its arrival."""
        self._requests[outcome].inc()
        if outcome == "answered":
            self._total.observe(seconds)

    def refused(self, outcome: str) -> None:
        """A request was refused."""
        self._requests[outcome].inc()
