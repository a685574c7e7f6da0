"""`python -m caan.bench.scan`: the scan of sketches against reading them, and pooling against scoring.

Medians of ratios; both of a pair alternate in one run, so that other load on the machine meets both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from .._machine import chosen_threads

SKETCHES, COLUMNS, BEST, ROUNDS = 1_000_000, 64, 100, 21
DIM, IMAGES, CAPTIONS, REGIONS, WORDS = 1024, 16, 64, 36, 14


def scan_ratio(threads: int, rounds: int = ROUNDS, sketches: int = SKETCHES) -> tuple[float, float]:
    """Milliseconds of one query's scan, and its ratio to a vectorized sum of the same bytes on as many threads."""
    import caan_native

    random = np.random.default_rng(0)
    rows = random.integers(-127, 128, (sketches, COLUMNS), np.int8)
    query = random.integers(-32767, 32768, (1, COLUMNS), np.int16)
    scanner = caan_native.Scanner(threads)
    parts = np.array_split(rows.reshape(-1).view(np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            list(pool.map(np.sum, parts))

        return _ratio(lambda: scanner.best(rows, query, BEST), read, rounds)


def pool_ratios(threads: int, rounds: int = ROUNDS, dim: int = DIM) -> dict[str, float]:
    """The price of a pair's pooling ÷ that of its score, for images and captions at D = d = `dim`."""
    import caan_native

    random = np.random.default_rng(0)

    def items(
        count: int, length: int, columns: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        states = random.normal(0, 0.03, (count * length, columns)).astype(np.float32)
        return states, np.arange(count) * length, np.full(count, length)

    images, captions = items(IMAGES, REGIONS, 5 * dim), items(CAPTIONS, WORDS, 4 * dim)
    weights = random.normal(0, 0.05, dim).astype(np.float32)
    scorer = caan_native.Scorer(dim, dim, 1.0, weights, weights, "fp32", threads)
    scores = np.empty((IMAGES, CAPTIONS), np.float32)

    def score() -> None:
        scorer.score(*images, *captions, scores)

    return {
        "images": _ratio(lambda: scorer.pool_images(*images, *captions), score, rounds)[1],
        "captions": _ratio(lambda: scorer.pool_captions(*captions, *images), score, rounds)[1],
    }


def _ratio(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median milliseconds of `one`, and the median of its ratio to `other`, which takes turns with it."""
    times = []
    for _ in range(rounds + 1):
        start = perf_counter()
        one()
        middle = perf_counter()
        other()
        times.append((middle - start, perf_counter() - middle))
    measured = times[1:]  # the first call allocates
    return 1000 * median(time for time, _ in measured), median(time / base for time, base in measured)


def main() -> None:
    """Print both, on the threads that the scorer takes."""
    threads = chosen_threads(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    milliseconds, ratio = scan_ratio(threads)
    print(f"{SKETCHES:,} sketches of {COLUMNS} bytes, one query, {threads} threads: {milliseconds:.2f} ms,")
    print(f"{ratio:.2f} × reading them")
    for kind, price in pool_ratios(threads).items():
        print(f"pooling {kind} at D = d = {DIM}: {price:.2f} × scoring the same pairs")


if __name__ == "__main__":
    main()
