"""Detects whether the machine was too busy for a reliable measurement."""

from __future__ import annotations

import os
import time

import numpy as np
from numpy.typing import NDArray

from ..._cgroups import throttled

# Share of this process's CPUs that other processes may use without affecting the choice.
_OTHERS_SHARE = 0.15
# Largest allowed ratio of a choice's second-best to best repetition, as the median over all choices.
_SPREAD = 1.15


class Watch:
    """Observes other processes' use of the CPUs from its creation on."""

    def __init__(self) -> None:
        self._start, self._throttled = time.perf_counter(), throttled()
        self._all_cpu, self._process_cpu = _all_cpu_seconds(), time.process_time()

    def doubts(self, seconds: NDArray[np.float64]) -> tuple[str, ...]:
        """Why measurements taken since then may be wrong. seconds (choices, repetitions ≥ 2): the measurements."""
        elapsed, doubts = time.perf_counter() - self._start, []
        fastest = np.sort(seconds, axis=1)
        spread = float(np.median(fastest[:, 1] / fastest[:, 0]))
        if spread > _SPREAD:
            doubts.append(f"repetitions differed by {spread - 1:.0%}")
        all_cpu = _all_cpu_seconds()
        if all_cpu is not None and self._all_cpu is not None:
            others = (all_cpu - self._all_cpu) - (time.process_time() - self._process_cpu)
            share = min(1.0, others / elapsed / len(_processors()))
            if share > _OTHERS_SHARE:
                doubts.append(f"other processes used {share:.0%} of the CPUs")
        if throttled() > self._throttled:
            doubts.append("the control group throttled threads")
        return tuple(doubts)


def _all_cpu_seconds() -> float | None:
    """CPU time of all processes on the CPUs this process may use, in seconds; None if it can't be read."""
    try:
        import psutil

        times, ours = psutil.cpu_times(percpu=True), _processors()
    except (ImportError, OSError):
        return None
    if max(ours) >= len(times):  # with a CPU offline, numbers no longer match positions
        return None
    # Linux counts interrupts and stolen time separately.
    parts = ("user", "nice", "system", "irq", "softirq", "steal")
    return sum(float(getattr(times[number], part, 0.0)) for number in ours for part in parts)


def _processors() -> set[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return set(affinity(0)) if affinity else set(range(os.cpu_count() or 1))
