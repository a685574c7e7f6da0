"""What a BatchingRetriever counts and measures, in Prometheus's format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ...errors import InputError, needs

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

OUTCOMES = ("answered", "failed", "invalid", "overloaded", "expired", "cancelled", "closed")
# From a search in a small gallery on a GPU to one in a large gallery behind a full queue on a CPU.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ServingMetrics:
    """Counters and histograms for one or several BatchingRetrievers, in a registry of their own or the caller's.

    caan_search_requests_total{outcome}   requests by how they ended: answered, failed (with an error), invalid,
                                          overloaded, expired, cancelled, closed
    caan_search_queue_depth               requests that wait for their batch now
    caan_search_batch_size                histogram: requests per batch
    caan_search_queue_seconds             histogram: from a request's arrival to the start of its batch
    caan_search_seconds                   histogram: from a request's arrival to its answer, of those answered

    A server of several processes, as with gunicorn's or uvicorn's workers, is scraped through any one of them, and must
    add up what all of them count. For that, prometheus-client keeps its values in files: set PROMETHEUS_MULTIPROC_DIR
    to a folder that is empty when the server starts, before any process imports prometheus_client; every process makes
    its own ServingMetrics, and `text` then gives the sums over all processes, also of those that ended. When a worker
    ends, call `prometheus_client.multiprocess.mark_process_dead(pid)` in the process that watches over it (gunicorn's
    `child_exit` hook): its waiting requests no longer count. A registry with more than these metrics is not in `text`'s
    sums unless its metrics are in the same mode, and `registry.get_sample_value` gives this process's values alone.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Raises MissingError without prometheus-client, InputError if the registry has such metrics already."""
        with needs("metrics", "ServingMetrics"):
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        self.registry = CollectorRegistry() if registry is None else registry
        where = self.registry
        try:
            requests = Counter("caan_search_requests", "Requests by how they ended", ["outcome"], registry=where)
            depth = "caan_search_queue_depth", "Requests that wait for their batch"
            self._depth = Gauge(*depth, registry=where, multiprocess_mode="livesum")
            self._size = Histogram("caan_search_batch_size", "Requests per batch", registry=where, buckets=_SIZES)
            self._queue = Histogram(
                "caan_search_queue_seconds", "From arrival to the batch's start", registry=where, buckets=_SECONDS
            )
            self._total = Histogram(
                "caan_search_seconds", "From arrival to the answer", registry=where, buckets=_SECONDS
            )
        except ValueError as error:
            raise InputError(
                f"the registry has such metrics already ({error}); give all BatchingRetrievers the same ServingMetrics"
            ) from error
        self._waiting: WeakKeyDictionary[object, int] = WeakKeyDictionary()
        # An outcome that has not happened yet is 0, not absent.
        self._requests = {outcome: requests.labels(outcome) for outcome in OUTCOMES}

    def text(self) -> str:
        """The registry in Prometheus's text format, for an application's /metrics; in several processes, their sum."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = self.registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            from prometheus_client.multiprocess import MultiProcessCollector

            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry).decode()

    def waiting(self, queue: object, number: int) -> None:
        """So many requests of a queue wait for their batch now."""
        # Not by how many more: a call that a signal's handler interrupts is made good by the next one.
        self._waiting[queue] = number
        self._depth.set(sum(list(self._waiting.values())))

    def batch(self, waits: Sequence[float]) -> None:
        """A batch starts whose requests have waited for so many seconds each."""
        self._size.observe(len(waits))
        for seconds in waits:
            self._queue.observe(seconds)

    def finished(self, outcome: str, seconds: float) -> None:
        """A request ended so many seconds after its arrival."""
        self._requests[outcome].inc()
        if outcome == "answered":
            self._total.observe(seconds)

    def refused(self, outcome: str) -> None:
        """A request was not accepted."""
        self._requests[outcome].inc()
