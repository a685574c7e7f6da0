"""One process at a time in a folder.

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
    """Keep other processes from replacing a folder. No lock where it isn't there yet, or the system has none.

    Gives whether there is a lock. Raises OutputError, unless it may wait, if another process holds it; there a system
    without locks is a CaanWarning.
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
        # Replaced while we waited: what we hold is the old folder.
        os.close(handle)
    try:
        yield is_locked
    finally:
        if handle is not None:
            os.close(handle)


# Without filelock: its FileLock can't open a folder and would leave a lock file beside it, while a lock on the folder
# itself shows that another folder has replaced it. Its lock_descriptor is the flock call above, but waits by polling.
def _open_folder(folder: Path) -> int | None:
    """A handle to lock; None where there is no such folder, or the system can't open one."""
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
                f"there are no locks where {folder} is ({reason}): of two processes that write it at once, one fails",
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
