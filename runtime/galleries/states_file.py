"""states.bin, opened: mapped or read, what it holds compared with the hashes it was written with, changes noticed.

Who shortens a file that is mapped takes the memory away from whoever reads it: the system ends the process (SIGBUS).
So the file is looked at before and after every use, two system calls a query. What is shortened in the milliseconds
between still ends the process; storage that others write to in place is to be read, not mapped.
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
    """Raise InputError for a storage that there is not."""
    if storage not in get_args(Storage):
        raise InputError(f"unknown storage '{storage}'; known: {', '.join(get_args(Storage))}")


class States:
    """Rows of states.bin, (rows, columns), and what is known of them. Threads may share one."""

    def __init__(self, path: Path, description: Description, storage: Storage) -> None:
        """Raises BundleError for a file that can't be read or is too short; in memory, for one that was changed."""
        self.path, self.description, self.storage = path, description, storage
        self.folder = path.parent.absolute()  # whatever the current folder is later
        self._blocks = blocks = description.blocks
        self._ends = np.cumsum([block.rows for block in blocks])
        self._good = [False] * len(blocks)
        self._all_good = False
        self._doubtful: set[int] = set()  # blocks that were good, and used, before the file was changed
        self._lock, self._process = Lock(), os.getpid()
        shape, dtype = (description.rows, description.columns), np.dtype(description.dtype).newbyteorder("<")
        self._bytes = description.rows * description.row_bytes
        try:
            self._handle = regular_handle(path)
            weakref.finalize(self, os.close, self._handle)
            self._stamp = self._look()
            self.rows: NDArray[np.floating]
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
        """To be called before rows start:end are used: each block is compared with its hash when it is first used.

        And again once the file was changed where it lies. Raises BundleError if a row is not what was written.
        """
        if self.storage == "memory" or (self._look() == self._stamp and self._all_good):
            return
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        with self._own_lock():
            self._notice()
            for number in range(first, last + 1):
                if not self._good[number]:
                    self._compare(number)
            self._all_good = all(self._good)

    def confirm(self) -> None:
        """To be called after the rows were used: raises BundleError if any that was compared is another now."""
        if self.storage == "memory" or (self._look() == self._stamp and not self._doubtful):
            return
        with self._own_lock():
            self._notice()
            for number in sorted(self._doubtful):
                self._compare(number)

    def _look(self) -> tuple[int, ...]:
        """Size, link count and times; raises BundleError if the file has become too short."""
        status = os.fstat(self._handle)
        if status.st_size < self._bytes:
            raise BundleError(f"{self.path} is truncated: {status.st_size} bytes of {self._bytes}; {_AGAIN}")
        return status.st_size, status.st_mtime_ns, status.st_nlink, status.st_ctime_ns

    def _notice(self) -> None:
        """Forget what was compared if the file was changed."""
        seen = self._look()
        *content, links, status_changed = seen
        *content_before, links_before, status_changed_before = self._stamp
        # A name more or fewer is another gallery in the place of this one, or a backup: that changes the times too.
        if content != content_before or (status_changed != status_changed_before and links == links_before):
            self._all_good = False
            self._doubtful.update(number for number, good in enumerate(self._good) if good)
            self._good = [False] * len(self._good)
        self._stamp = seen

    def _compare(self, number: int) -> None:
        block, end = self._blocks[number], int(self._ends[number])
        if hashlib.sha256(self.rows[end - block.rows : end].data).hexdigest() != block.sha256:
            first = sum(block.items for block in self._blocks[:number])
            raise BundleError(
                f"{self.path} was changed: the states of items {first} to {first + block.items - 1} are not those that"
                f" were written; {_AGAIN}"
            )
        self._good[number] = True
        self._doubtful.discard(number)

    def _compare_all(self) -> None:
        for number in range(len(self._blocks)):
            self._compare(number)

    def _read(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[np.floating]:
        rows = np.empty(shape, dtype)
        with os.fdopen(self._handle, "rb", closefd=False) as file:
            filled: int = file.readinto(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        if filled < self._bytes:
            raise BundleError(f"{self.path} is truncated: {filled} bytes of {self._bytes}; {_AGAIN}")
        return rows

    def _own_lock(self) -> Lock:
        """In a forked process, another: a thread that is not there may hold its parent's."""
        if self._process != os.getpid():
            self._lock, self._process = Lock(), os.getpid()
        return self._lock
