"""Building blocks of a gallery in memory, and the origin of an opened one."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._files import explained, reserve
from ...errors import DataError
from .description import Description
from .states_file import Storage


@dataclass(frozen=True)
class Origin:
    """The folder a gallery was opened from, and its description at that time."""

    folder: Path
    storage: Storage
    description: Description


def new_states(rows: int, width: int, dtype: np.dtype[Any], folder: str | Path | None) -> NDArray[np.floating]:
    """An uninitialized (rows, width) array, in memory or memory-mapped from a new file in an existing folder.

    Raises OutputError if the folder can't be written to.
    """
    if folder is None:
        return np.empty((rows, width), dtype)
    with explained(Path(folder), creating=True):
        # A unique name: another gallery in the same folder may be mapped.
        handle, name = tempfile.mkstemp(prefix="states-", suffix=".npy", dir=folder)
    os.close(handle)
    states = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=(rows, width))
    reserve(Path(name))
    return states


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """lengths (items,) → offsets (items + 1,)."""
    if len(lengths) == 0:
        raise DataError("nothing to encode: no items")
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def relative_to(path: Path, folder: Path) -> str:
    """A path as seen from a folder."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:  # another drive on Windows
        return str(path)
