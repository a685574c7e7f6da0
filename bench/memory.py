"""Memory of a large search, in its own process, since a peak never falls: `make bench-memory`."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .._files import temporary_folder
from .._machine import describe_machine, peak_memory
from ..bundle import state_widths
from ..runtime import Gallery, Retriever
from ..runtime.galleries.description import Kind
from ..runtime.galleries.in_memory import offsets_of
from .own_process import away_from_here
from .synthetic import synthetic_bundle
from .timing import seconds

IMAGES, CAPTIONS, REGIONS, WORDS, K = 5000, 25_000, 36, 14, 10
DIM = 256  # D and d
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class SearchMemory:
    """Peak resident memory of the process in bytes, memory-mapped states included; pairs/s."""

    peak: int
    pairs_per_second: float


def measure_memory(threads: int | None, progress: Callable[[str], None]) -> SearchMemory:
    """Search IMAGES × CAPTIONS of random float16 states, memory-mapped, for the best K images of each caption."""
    spawn = multiprocessing.get_context("spawn")
    with synthetic_bundle(progress, DIM) as bundle, ProcessPoolExecutor(1, spawn) as pool:
        progress(f"searching {CAPTIONS:,} captions in {IMAGES:,} images: half an hour or more")
        with away_from_here():
            measured = pool.submit(_search, bundle, threads)
        return measured.result()


def _search(bundle: Path, threads: int | None) -> SearchMemory:
    with temporary_folder("memory", "random states") as folder:
        retriever = Retriever.open(bundle, "onnxruntime", device="cpu", threads=threads)
        images = _random_gallery(retriever, "image", IMAGES, REGIONS, folder)
        captions = _random_gallery(retriever, "text", CAPTIONS, WORDS, folder)
        took = seconds(lambda: retriever.search_many(captions, images, K, progress=True))
        return SearchMemory(peak_memory(), IMAGES * CAPTIONS / took)


def _random_gallery(retriever: Retriever, kind: Kind, items: int, length: int, folder: Path) -> Gallery:
    """States as large as the encoders' output."""
    width = state_widths(retriever.backend.model.config)[kind]
    generator = np.random.default_rng(0)
    path, shape = folder / f"{kind}.npy", (items * length, width)
    states = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    for start in range(0, len(states), _ROWS_AT_ONCE):
        part = states[start : start + _ROWS_AT_ONCE]
        part[:] = generator.standard_normal(part.shape, np.float32) / width**0.5
    states.flush()
    del states, part
    offsets = offsets_of(np.full(items, length, np.int64))
    return Gallery(kind, retriever.backend.model.encoders[kind], np.load(path, mmap_mode="r"), offsets)


if __name__ == "__main__":
    result = measure_memory(None, lambda message: print(message, file=sys.stderr))
    print(describe_machine())
    print(f"{CAPTIONS:,} captions searched in {IMAGES:,} images, D = d = {DIM}, k = {K}, float16 states memory-mapped")
    print(f"peak resident memory {result.peak / 2**20:,.0f} MiB, {result.pairs_per_second:,.0f} pairs/s")
