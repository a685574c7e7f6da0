"""Whether this machine was quiet enough to measure on."""

from __future__ import annotations

import os
import time

import numpy as np
from numpy.typing import NDArray

from ..._cgroups import throttled

# Of the processors that this process may use, the share that others may take without being noticed in a choice.
_OTHERS_SHARE = 0.15
# How much longer the second best of a way's repetitions may take than the best, in the middle of all ways.
_SPREAD = 1.15


class Watch:
    """What others did on this machine's processors since it was made."""

    def __init__(self) -> None:
        self._start, self._busy, self._own, self._held_back = time.perf_counter(), _busy(), _own(), throttled()

    def doubts(self, seconds: NDArray[np.float64]) -> tuple[str, ...]:
        """Why what was measured since may be wrong; seconds (ways, repetitions at least 2) is what was measured."""
        elapsed, doubts = time.perf_counter() - self._start, []
        fastest = np.sort(seconds, axis=1)
        spread = float(np.median(fastest[:, 1] / fastest[:, 0]))
        if spread > _SPREAD:
            doubts.append(f"repetitions differed by {spread - 1:.0%}")
        busy = _busy()
        if busy is not None and self._busy is not None:
            others = (busy - self._busy) - (_own() - self._own)
            share = min(1.0, others / elapsed / len(_processors()))
            if share > _OTHERS_SHARE:
                doubts.append(f"others used {share:.0%} of the processors")
        if throttled() > self._held_back:
            doubts.append("the control group held threads back")
        return tuple(doubts)


def _own() -> float:
    """Processor time of this process, in seconds."""
    return time.process_time()


def _busy() -> float | None:
    """Processor time of everybody on the processors that this process may use, in seconds; None if it can't be read."""
    try:
        import psutil

        times, ours = psutil.cpu_times(percpu=True), _processors()
    except (ImportError, OSError):
        return None
    if max(ours) >= len(times):  # a processor was taken offline: the others' numbers and places differ
        return None
    # Linux counts interrupts and what a hypervisor took apart.
    parts = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(float(getattr(times[number], part, 0.0)) for number in ours for part in parts)


def _processors() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))
