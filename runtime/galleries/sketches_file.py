"""sketches.bin of an opened gallery: read, and verified against its hashes, when first used."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ..._files.reading import regular_handle
from ...errors import BundleError
from .description import Curve, Description

REMEDY = "make them again: caan sketch"


@dataclass(frozen=True)
class Sketches:
    """The sketches of a gallery's items."""

    model: str  # identity of the bundle's sketch that made them
    columns: int
    curve: Curve | None  # measured recall
    read: Callable[[], NDArray[np.int8]]  # (items or more, columns); raises BundleError if the file was changed


@dataclass(frozen=True)
class SketchRows:
    """Sketches in memory; called, it returns them."""

    rows: NDArray[np.int8]

    def __call__(self) -> NDArray[np.int8]:
        return self.rows


class SketchesFile:
    """Called, it returns the rows (items, columns) in memory. Thread-safe.

    The file stays open: appends and `caan sketch` replace it, and this gallery's rows stay those it was opened with.
    """

    def __init__(self, path: Path, description: Description) -> None:
        """Raises BundleError if the file can't be opened or is too short."""
        assert description.sketch is not None
        self._path, self._description = path, description
        self._shape = description.items, description.sketch.columns
        self._rows: NDArray[np.int8] | None = None
        self._lock, self._process = Lock(), os.getpid()
        try:
            self._handle = regular_handle(path)
        except OSError as error:
            raise BundleError(f"{path} can't be read ({error.strerror}); {REMEDY} {path.parent}") from error
        weakref.finalize(self, os.close, self._handle)
        size, expected = os.fstat(self._handle).st_size, self._shape[0] * self._shape[1]
        if size < expected:
            raise BundleError(f"{path} is truncated: {size} bytes of {expected}; {REMEDY} {path.parent}")

    def __call__(self) -> NDArray[np.int8]:
        if self._process != os.getpid():  # in the parent, a thread that does not exist here may hold the lock
            self._lock, self._process = Lock(), os.getpid()
        with self._lock:
            if self._rows is None:
                self._rows = self._read()
            return self._rows

    def _read(self) -> NDArray[np.int8]:
        rows = np.empty(self._shape, np.int8)
        view = memoryview(rows.reshape(-1).view(np.uint8).data)
        done = 0
        while done < len(view):
            part = os.preadv(self._handle, [view[done:]], done)
            if part == 0:
                raise BundleError(
                    f"{self._path} is truncated: {done} bytes of {len(view)}; {REMEDY} {self._path.parent}"
                )
            done += part
        first = 0
        for block in self._description.blocks:
            if hashlib.sha256(rows[first : first + block.items].data).hexdigest() != block.sketches:
                raise BundleError(
                    f"{self._path} was changed: the sketches of items {first} to {first + block.items - 1} are not"
                    f" those that were written; {REMEDY} {self._path.parent}"
                )
            first += block.items
        rows.flags.writeable = False
        return rows
