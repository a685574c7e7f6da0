"""Reading memory-mapped arrays whose files another process may truncate meanwhile."""

from __future__ import annotations

import mmap
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Scalar = TypeVar("Scalar", bound=np.generic)


def read_rows(array: NDArray[Scalar], start: int, stop: int) -> NDArray[Scalar]:
    """array[start:stop], copied to memory if the array is memory-mapped: copying is cheap compared with its use.

    Raises DataError if the file was truncated; reading past its end would kill the process (SIGBUS).
    """
    mapped = _mapped(array)
    if mapped is None:
        return array[start:stop]
    _check_whole(mapped)
    rows: NDArray[Scalar] = np.array(array[start:stop], subok=False)
    _check_whole(mapped)
    return rows


def _mapped(array: Any) -> np.memmap[Any, Any] | None:
    """The memory map that an array is a view of; None if there is none."""
    while array is not None and not (isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)):
        array = getattr(array, "base", None)
    return array


def _check_whole(mapped: np.memmap[Any, Any]) -> None:
    pages: mmap.mmap = mapped.base  # type: ignore[assignment]
    start = mapped.offset - mapped.offset % mmap.ALLOCATIONGRANULARITY
    size, needed = pages.size(), start + len(pages)
    if size < needed:
        raise DataError(
            f"{mapped.filename or 'a memory-mapped file'} was truncated while it was read: {size} bytes of {needed};"
            " copy it again"
        )
