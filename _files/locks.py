"""Locks on folders.

Standard library only.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import CaanWarning, OutputError


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other processes from replacing a folder. No lock if it does not exist, or the system has none.

    Yields whether the lock is held. With `wait` False raises OutputError if another process holds the lock, and warns
    (CaanWarning) on a system without locks.
    """
    is_locked = False
    while (handle := _open_folder(folder)) is not None:
        try:
            is_locked = _lock(handle, folder, wait)
            if _is_still(handle, folder):
                break
        except BaseException:
            os.close(handle)
            raise
        # Replaced while waiting: this is the old folder's lock.
        os.close(handle)
    try:
        yield is_locked
    finally:
        if handle is not None:
            os.close(handle)


# Not filelock: its FileLock can't open a folder and would leave a lock file beside it, while a lock on the folder
# itself detects replacement. Its lock_descriptor is the same flock call, but polls.
def _open_folder(folder: Path) -> int | None:
    """A handle to lock; None if the folder does not exist, or the system can't open folders."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return os.open(folder, os.O_RDONLY)
    return None


def _lock(handle: int, folder: Path, wait: bool) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise OutputError(f"another process is writing {folder}; wait for it, or name another place") from error
    except (ImportError, OSError) as error:  # a system or network drive without locks
        if not wait:
            reason = error.strerror if isinstance(error, OSError) else "this system has none"
            warnings.warn(
                f"there are no locks where {folder} is ({reason}): if two processes write it at once, one fails",
                CaanWarning,
                stacklevel=6,
            )
        return False
    return True


def _is_still(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False
