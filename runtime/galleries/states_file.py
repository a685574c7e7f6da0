"""An open states.bin: mapped or read into memory, verified against its hashes, watched for changes.

Truncating a mapped file removes the memory under its readers, and the system kills them (SIGBUS). So the file's size
and times are checked before and after every use, two system calls per query. A truncation in the milliseconds between
still kills the process: open storage that others write to in place with "memory", not "mapped".
"""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..._files.reading import regular_handle
from ...errors import BundleError, InputError
from .description import Description

Storage = Literal["mapped", "memory"]
_AGAIN = "run caan index again with --overwrite"


def check_storage(storage: str) -> None:
    """Raise InputError for an unknown storage."""
    if storage not in get_args(Storage):
        raise InputError(f"unknown storage '{storage}'; known: {', '.join(get_args(Storage))}")


class States:
    """Rows of states.bin as stored, and which of them are verified. Thread-safe."""

    def __init__(self, path: Path, description: Description, storage: Storage) -> None:
        """Raises BundleError if the file can't be read or is too short; with storage "memory", also if it changed."""
        self.path, self.description, self.storage = path, description, storage
        self.folder = path.parent.absolute()  # the working directory may change
        self._blocks = blocks = description.blocks
        self._ends = np.cumsum([block.rows for block in blocks])
        self._verified = [False] * len(blocks)
        self._all_verified = False
        self._stale: set[int] = set()  # blocks verified, and used, before the file changed
        self._lock, self._process = Lock(), os.getpid()
        dtype, columns = description.row_type
        shape = description.rows, columns
        self._bytes = description.rows * description.row_bytes
        try:
            self._handle = regular_handle(path)
            weakref.finalize(self, os.close, self._handle)
            self._stamp = self._stat()
            self.rows: NDArray[Any]
            if storage == "mapped":
                with os.fdopen(self._handle, "rb", closefd=False) as file:
                    self.rows = np.memmap(file, dtype, "r", shape=shape)
            else:
                self.rows = self._read(shape, dtype)
        except OSError as error:
            raise BundleError(f"{path} can't be read ({error.strerror}); {_AGAIN}") from error
        except MemoryError as error:
            raise BundleError(f"{path} needs more memory than there is: {self._bytes:,} bytes") from error
        if storage == "memory":
            self._compare_all()

    def __call__(self, start: int, end: int) -> None:
        """Call before using rows start:end: verifies each block on first use, and again if the file was changed.

        Raises BundleError if a row differs from what was written.
        """
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        self._verify(np.arange(first, last + 1))

    def check_items(self, starts: NDArray[np.int64]) -> None:
        """The same for items that begin at these rows, in any order: only the blocks that hold them are verified."""
        self._verify(np.searchsorted(self._ends, starts, side="right"))

    def confirm(self) -> None:
        """Call after using rows: raises BundleError if any verified row has changed since."""
        if self.storage == "memory" or (self._stat() == self._stamp and not self._stale):
            return
        with self._process_lock():
            self._invalidate()
            for number in sorted(self._stale):
                self._compare(number)

    def _verify(self, numbers: NDArray[np.int64]) -> None:
        """Verify these blocks, which may repeat, unless they are."""
        if self.storage == "memory" or (self._stat() == self._stamp and self._all_verified):
            return
        with self._process_lock():
            self._invalidate()
            for number in np.unique(numbers).tolist():
                if not self._verified[number]:
                    self._compare(number)
            self._all_verified = all(self._verified)

    def _stat(self) -> tuple[int, ...]:
        """Size, times and link count; raises BundleError if the file was truncated."""
        status = os.fstat(self._handle)
        if status.st_size < self._bytes:
            raise BundleError(f"{self.path} is truncated: {status.st_size} bytes of {self._bytes}; {_AGAIN}")
        return status.st_size, status.st_mtime_ns, status.st_nlink, status.st_ctime_ns

    def _invalidate(self) -> None:
        """Forget verified blocks if the file was changed."""
        seen = self._stat()
        *content, links, status_changed = seen
        *content_before, links_before, status_changed_before = self._stamp
        # Replacing or hard-linking the file changes its link count, and with it ctime, but not the content.
        if content != content_before or (status_changed != status_changed_before and links == links_before):
            self._all_verified = False
            self._stale.update(number for number, ok in enumerate(self._verified) if ok)
            self._verified = [False] * len(self._verified)
        self._stamp = seen

    def _compare(self, number: int) -> None:
        block, end = self._blocks[number], int(self._ends[number])
        if hashlib.sha256(self.rows[end - block.rows : end].data).hexdigest() != block.sha256:
            first = sum(block.items for block in self._blocks[:number])
            raise BundleError(
                f"{self.path} was changed: the states of items {first} to {first + block.items - 1} are not those that"
                f" were written; {_AGAIN}"
            )
        self._verified[number] = True
        self._stale.discard(number)

    def _compare_all(self) -> None:
        for number in range(len(self._blocks)):
            self._compare(number)

    def _read(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
        rows = np.empty(shape, dtype)
        with os.fdopen(self._handle, "rb", closefd=False) as file:
            filled: int = file.readinto(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        if filled < self._bytes:
            raise BundleError(f"{self.path} is truncated: {filled} bytes of {self._bytes}; {_AGAIN}")
        return rows

    def _process_lock(self) -> Lock:
        """A new lock in a forked process: in the parent, a thread that does not exist here may hold the old one."""
        if self._process != os.getpid():
            self._lock, self._process = Lock(), os.getpid()
        return self._lock
