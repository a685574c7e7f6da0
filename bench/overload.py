"""Goodput of a BatchingRetriever under overload."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from ..errors import Overloaded
from ..runtime import BatchingRetriever, Gallery, Retriever
from ..runtime.retriever import Caption, Hit

# Arrival rates as multiples of the capacity; timeout of a request in times of a full batch.
LOADS, PATIENCE = (1, 2, 10), 4
_BATCH = 32


@dataclass(frozen=True)
class Overload:
    """Answers in time per second ÷ the capacity, medians of the rounds."""

    capacity: float  # requests per second, in full batches back to back
    timeout: float  # seconds, of every request
    goodput: dict[int, float]  # arrival rate ÷ capacity → rate answered in time ÷ capacity


def measure_overload(
    retriever: Retriever, gallery: Gallery, captions: Sequence[Caption], *, seconds: float = 8.0, rounds: int = 3
) -> Overload:
    """Open-loop load: requests arrive on schedule, for `seconds` at each of LOADS in each round.

    Capacity is measured before each of them, so that a drift of the machine affects both alike.
    """
    requests = cycle(captions)
    with BatchingRetriever(retriever, max_batch=_BATCH) as batching:
        _capacity(batching, gallery, requests, seconds / 4)  # warm-up
        capacities: list[float] = []
        shares: dict[int, list[float]] = {times: [] for times in LOADS}
        timeout = 0.0
        for _ in range(rounds):
            for times in LOADS:
                capacity = _capacity(batching, gallery, requests, seconds / 2)
                capacities.append(capacity)
                timeout = PATIENCE * _BATCH / capacity
                good = _answered_in_time(batching, gallery, requests, times * capacity, seconds, timeout)
                shares[times].append(good / capacity)
    goodput = {times: float(np.median(share)) for times, share in shares.items()}
    return Overload(float(np.median(capacities)), timeout, goodput)


def _capacity(batching: BatchingRetriever, gallery: Gallery, captions: cycle[Caption], seconds: float) -> float:
    """Requests per second while a full batch always waits."""
    start, answered, pending = time.monotonic(), 0, list[Future[list[Hit]]]()
    while time.monotonic() < start + seconds:
        pending += [batching.submit(next(captions), gallery) for _ in range(2 * _BATCH - len(pending))]
        done = wait(pending[:_BATCH]).done
        answered += len(done)
        pending = [answer for answer in pending if answer not in done]
    took = time.monotonic() - start
    wait(pending)
    return answered / took


def _answered_in_time(
    batching: BatchingRetriever,
    gallery: Gallery,
    captions: cycle[Caption],
    per_second: float,
    seconds: float,
    timeout: float,
) -> float:
    """Answers per second within `timeout` while requests arrive."""
    start, number, accepted = time.monotonic(), 0, []
    while number < seconds * per_second:
        time.sleep(max(0.0, start + number / per_second - time.monotonic()))
        number += 1
        try:
            accepted.append(batching.submit(next(captions), gallery, timeout=timeout))
        except Overloaded:
            continue
    wait(accepted)
    took = time.monotonic() - start  # requests queued at the end are answered too
    return sum(answer.exception() is None for answer in accepted) / took
