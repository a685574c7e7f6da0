"""The kernel's speed at the paper's size (bench/gpu_kernel.py)."""

from __future__ import annotations

from ...gpu_kernel import PAPER, TINY, gpu_device, measure
from ..plan import Put, StepSettings


def run(settings: StepSettings, put: Put) -> None:
    """One row for each choice of blocks, each rival and each limit, one for each type of number."""
    if settings.rehearse:
        measure(TINY, "cpu", put, ("bfloat16", "float32"))
    else:
        measure(PAPER, gpu_device(), put)
