"""Compile the later steps' kernels on all cores, into Triton's and PyTorch's caches."""

from __future__ import annotations

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

from ...._machine import cpu_count
from ...gpu_kernel import DTYPES, PAPER, TINY
from ..plan import Put, StepSettings

_MOST_PROCESSES = 14  # each has its own context on the GPU


def run(settings: StepSettings, put: Put) -> None:
    """One row for each shape and type: how many choices of blocks compile and run, and which are too large."""
    import torch

    from .kernel import blocks_for, shapes

    jobs: list[tuple[str, tuple[Any, ...]]] = []
    for dtype in DTYPES:
        for shape in shapes(settings.rehearse)[: 1 if settings.rehearse else None]:
            for index in range(len(blocks_for(shape, getattr(torch, dtype)))):
                jobs.append((f"{dtype} R {shape.regions}, T {shape.words}", ("kernel", dtype, shape, index)))
        jobs += [(f"{dtype} torch.compile", ("rival", dtype, side)) for side in _sizes(settings).sides]
    if settings.rehearse:
        jobs = jobs[:1] + jobs[-1:]
    # The paper's size and the slowest jobs first.
    jobs.sort(key=lambda job: job[1][0] == "kernel" and job[1][2] != shapes(settings.rehearse)[0])
    rows: dict[str, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1 if settings.rehearse else min(_MOST_PROCESSES, cpu_count()), context) as pool:
        waiting = {pool.submit(_compile, job, settings.rehearse): (name, job) for name, job in jobs}
        for done in as_completed(waiting):
            name, job = waiting[done]
            row = rows.setdefault(name, {"ok": True, "compiled": 0, "slowest, s": 0.0, "note": ""})
            try:
                taken = done.result()
            except Exception as error:
                # The autotuner does not offer choices that are too large for a GPU.
                row["ok"] = row["ok"] and type(error).__name__ in ("TooLargeError", "OutOfMemoryError")
                row["note"] += f"{job[-1]}: {type(error).__name__} {error} "
            else:
                row["compiled"] += 1
                row["slowest, s"] = max(row["slowest, s"], taken)
            put(name, row)


def _sizes(settings: StepSettings) -> Any:
    return TINY if settings.rehearse else PAPER


def _compile(job: tuple[Any, ...], rehearse: bool) -> float:
    """Run a job once, which compiles it; seconds."""
    import torch

    from ....runtime.backends.triton.launch import score_states
    from ...gpu_kernel import Inputs
    from .kernel import blocks_for, states_of

    device, start = "cpu" if rehearse else "cuda", time.perf_counter()
    if job[0] == "kernel":
        _, dtype, shape, index = job
        small = shape._replace(images=1, captions=min(shape.captions, 8))
        blocks = blocks_for(shape, getattr(torch, dtype))[index]
        score_states(*states_of(small, getattr(torch, dtype), device), 4.0, blocks)
    else:
        _, dtype, side = job
        sizes = replace(PAPER, images=side, captions=side, few=side)
        inputs = Inputs(TINY if rehearse else sizes, dtype, device)
        with torch.inference_mode():
            inputs.compiled()(*inputs.part(side, side))
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
