"""Reading files without ever waiting for one: a pipe or device would keep its reader waiting, or have no end."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from pathlib import Path

# Nobody may ever write into a pipe that was named: so long is waited for who does.
_PIPE_SECONDS = 1.0


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or what leads to one, for reading. Raises OSError, at once, for anything else."""
    return os.fdopen(regular_handle(path), "rb")


def regular_handle(path: Path) -> int:
    """As `open_regular`, for whoever closes the handle himself."""
    # Looked at before it is opened, which some devices notice, and after, since it may have been replaced.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _not_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(path)
    return handle


def read_regular(path: Path) -> bytes:
    """All bytes of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_input(path: Path) -> bytes:
    """All bytes of a file that a user named, which may be a pipe, as /dev/stdin or the shell's <(command) are.

    Raises OSError, also for a pipe that nobody writes into.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb") as file:
            return file.read()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        end = time.monotonic() + _PIPE_SECONDS
        # Nothing: without a writer. None: while one has not written yet.
        while (first := pipe.read(1)) == b"":
            if time.monotonic() > end:
                raise OSError(errno.EINVAL, "it is a pipe, and nobody writes into it", str(path))
            time.sleep(0.01)
        os.set_blocking(pipe.fileno(), True)
        return (first or b"") + pipe.readall()


def _not_regular(path: Path) -> OSError:
    if path.is_dir():
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return OSError(errno.EINVAL, "it is a pipe or device, not a file", str(path))
