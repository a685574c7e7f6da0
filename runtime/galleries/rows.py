"""How rows of states are stored: float16, float32, bfloat16, or int8 with a scale per matrix.

A stored row of S columns:

float16, float32   S numbers
bfloat16           S × uint16, the upper halves of float32 numbers, rounded to nearest, ties to even
int8               a float32 scale for each of the state's matrices (V, VK, VQ1, VQ2, VQ6; U, UQ3, UQ4, UQ5; V alone if
                   compact), max |x| / 127 of the row's part, then S × int8, x / scale rounded to nearest, ties to even

All little-endian and without padding. NumPy has no bfloat16, and the rows of int8 are of mixed types: in arrays they
are (rows, S) uint16 and (rows, bytes) uint8. cpp/kernels and cpp/src read the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Dtype = Literal["float16", "float32", "bfloat16", "int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
# Their arrays hold no numbers: only a kernel that knows them reads them as they are.
SMALL_DTYPES: tuple[Dtype, ...] = ("bfloat16", "int8")

_ARRAYS: dict[Dtype, str] = {"float16": "<f2", "float32": "<f4", "bfloat16": "<u2", "int8": "|u1"}
_SCALE = np.dtype("<f4")
_LARGEST = 127
# Times 127 it is still finite: the largest numbers divided by 127 may be rounded up.
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(_LARGEST), np.float32(0))
_LARGEST_BFLOAT16 = np.float32(3.3895314e38)
_ROWS = 64  # at a time, so that they stay in a cache


def array_type(dtype: Dtype, columns: int, matrices: int) -> tuple[np.dtype[Any], int]:
    """(dtype, columns) of the array that holds rows of `columns` numbers as stored."""
    return np.dtype(_ARRAYS[dtype]), columns + (_SCALE.itemsize * matrices if dtype == "int8" else 0)


def dtype_of(rows: NDArray[Any]) -> Dtype:
    """How an array's rows are stored."""
    return next(name for name, kind in _ARRAYS.items() if np.dtype(kind) == rows.dtype.newbyteorder("<"))


def columns_of(rows: NDArray[Any], matrices: int) -> int:
    """S, the numbers in each stored row."""
    return int(rows.shape[-1]) - (_SCALE.itemsize * matrices if dtype_of(rows) == "int8" else 0)


def encoded(states: NDArray[np.floating], dtype: Dtype, widths: Sequence[int]) -> NDArray[Any]:
    """Finite states (rows, S) → rows as bfloat16 or int8 store them.

    widths: columns of each of the state's matrices. A number differs from its original by at most 2^-8 of itself in
    bfloat16, and by half a scale in int8.
    """
    kind, columns = array_type(dtype, states.shape[1], len(widths))
    rows = np.empty((len(states), columns), kind)
    for start in range(0, len(states), _ROWS):
        numbers = states[start : start + _ROWS].astype(np.float32, copy=False)
        if dtype == "bfloat16":
            _round_to_bfloat16(numbers, rows[start : start + _ROWS])
        else:
            _quantize(numbers, rows[start : start + _ROWS], widths)
    return rows


def decoded(rows: NDArray[Any], widths: Sequence[int]) -> NDArray[np.float32]:
    """Rows of bfloat16 or int8 (…, columns) as stored → their numbers (…, S) in float32."""
    if dtype_of(rows) == "bfloat16":
        bits = rows.astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    scales, integers = _split(rows, len(widths))
    states = np.empty(integers.shape, np.float32)
    for number, columns in enumerate(_matrices(widths)):
        np.multiply(integers[..., columns], scales[..., number, None], out=states[..., columns])
    return states


def _round_to_bfloat16(states: NDArray[np.float32], rows: NDArray[Any]) -> None:
    # The largest float32 numbers would round to infinity.
    bits = np.clip(states, -_LARGEST_BFLOAT16, _LARGEST_BFLOAT16).view(np.uint32)
    rows[:] = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16


def _quantize(states: NDArray[np.float32], rows: NDArray[Any], widths: Sequence[int]) -> None:
    scales, integers = _split(rows, len(widths))
    for number, columns in enumerate(_matrices(widths)):
        numbers = states[:, columns]
        largest = np.maximum(np.abs(numbers.max(axis=1)), np.abs(numbers.min(axis=1)))
        scale = np.minimum(largest / np.float32(_LARGEST), _LARGEST_SCALE)
        scales[:, number] = scale
        # A scale of 0 is for a row of zeros; below the smallest normal number, scales are coarse.
        whole = np.rint(numbers / np.where(scale > 0, scale, np.float32(1))[:, None])
        integers[:, columns] = np.clip(whole, -_LARGEST, _LARGEST, out=whole)


def _split(rows: NDArray[Any], matrices: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Views of stored int8 rows: their scales (…, matrices) and integers (…, S)."""
    end = _SCALE.itemsize * matrices
    return rows[..., :end].view(_SCALE), rows[..., end:].view(np.int8)


def _matrices(widths: Sequence[int]) -> Iterator[slice]:
    """The columns of each matrix."""
    edges = np.cumsum([0, *widths]).tolist()
    return (slice(*edge) for edge in pairwise(edges))
