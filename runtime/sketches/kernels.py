"""Arithmetic of sketches: compiled (caan_native) where it is installed, else in NumPy.

The scan's sums are exact in both. Projections are rounded differently, so that a sketch's integers may differ by 1.
"""

from __future__ import annotations

import os
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._machine import chosen_threads

# Sketches per step in NumPy.
_STEP = 1 << 14


@cache
def _compiled() -> Any:
    """caan_native, if it is installed and knows sketches; else None."""
    try:
        import caan_native
    except ImportError:
        return None
    return caan_native if hasattr(caan_native, "Scanner") else None


def project(pooled: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """pooled (n, D) @ matrix (D, columns); a row's bits do not depend on the others."""
    compiled = _compiled()
    if compiled is not None:
        projected: NDArray[np.float32] = compiled.project(np.ascontiguousarray(pooled), np.ascontiguousarray(matrix))
        return projected
    # einsum, since a BLAS product's bits depend on the number of rows.
    result: NDArray[np.float32] = np.einsum("nd,dc->nc", pooled, matrix, optimize=False)
    return result


def quantize(projected: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.int8]:
    """projected (n, columns) in units of steps (columns,), rounded half to even, limited to -127 to 127."""
    result: NDArray[np.int8] = np.clip(np.rint(projected / steps), -127, 127).astype(np.int8)
    return result


def query_numbers(projected: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.int16]:
    """Queries (Q, columns) → integers whose products with sketches of these steps rank as the real ones do.

    The largest number of each query becomes 32767; a query of zeros stays so.
    """
    weighted = (projected * steps).astype(np.float64)
    largest = np.abs(weighted).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.where(largest > 0, weighted * 32767.0 / largest, 0.0)
    return np.ascontiguousarray(np.rint(scaled).astype(np.int16))


class Scanner:
    """Finds the best sketches. Thread-safe; a forked process starts threads of its own."""

    def __init__(self, threads: int | None) -> None:
        self._threads, self._lock = threads, Lock()
        self._scanner: Any = None
        self._process = os.getpid()

    def best(
        self, sketches: NDArray[np.int8], queries: NDArray[np.int16], n: int, skip: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Indices and sums (Q, n') of the n largest products of each query: falling, equal ones by index.

        sketches (N, columns), may be memory-mapped; queries (Q, columns); skip (N,): sketches left out; n' is less than
        n if fewer are left.
        """
        if _compiled() is None:
            return _best(sketches, queries, n, skip)
        result: tuple[NDArray[np.int64], NDArray[np.int32]] = self._own().best(sketches, queries, n, skip)
        return result

    def _own(self) -> Any:
        if self._process != os.getpid():
            self._scanner, self._lock, self._process = None, Lock(), os.getpid()
        with self._lock:
            if self._scanner is None:
                self._scanner = _compiled().Scanner(chosen_threads(self._threads))
            return self._scanner


def _best(
    sketches: NDArray[np.int8], queries: NDArray[np.int16], n: int, skip: NDArray[np.bool_] | None
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    left = np.arange(len(sketches)) if skip is None else np.flatnonzero(~skip.astype(np.bool_))
    sums = np.empty((len(queries), len(left)), np.int32)
    factors = queries.astype(np.float64).T  # exact below 2^53, and faster than integers
    for start in range(0, len(left), _STEP):
        part = left[start : start + _STEP]
        sums[:, start : start + _STEP] = (sketches[part].astype(np.float64) @ factors).T
    n = min(n, len(left))
    indices, best = np.empty((len(queries), n), np.int64), np.empty((len(queries), n), np.int32)
    for row, index, value in zip(sums, indices, best, strict=True):
        order = np.argsort(-row.astype(np.int64), kind="stable")[:n]
        index[:], value[:] = left[order], row[order]
    return indices, best
