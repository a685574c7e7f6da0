"""Timing of calls."""

from __future__ import annotations

import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    """Wall-clock seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def sustained_seconds(call: Callable[[], object], at_least: float = 1.0) -> float:
    """Wall-clock seconds per call, averaged over calls in a row that take `at_least` so many seconds.

    Cold caches and sleeping cores slow down a fast call more than a slow one: compare calls that run equally long.
    """
    start, calls = time.perf_counter(), 0
    while True:
        call()
        calls += 1
        took = time.perf_counter() - start
        if took >= at_least:
            return took / calls
