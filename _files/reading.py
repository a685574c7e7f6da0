"""Reading files without blocking: a pipe or device could block its reader, or be endless."""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from pathlib import Path

# How long to wait for a writer of a named pipe.
_PIPE_SECONDS = 1.0


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or a link to one, for reading. Raises OSError for anything else, without blocking."""
    return os.fdopen(regular_handle(path), "rb")


def regular_handle(path: Path) -> int:
    """As `open_regular`, but returns a descriptor that the caller must close."""
    # Checked before opening, which has side effects on some devices, and after, since it may have been replaced.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _not_regular(path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    handle = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_regular(path)
    return handle


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_input(path: Path) -> bytes:
    """The bytes of a user's file, which may be a pipe such as /dev/stdin or the shell's <(command).

    Raises OSError, also for a pipe without a writer.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb") as file:
            return file.read()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        end = time.monotonic() + _PIPE_SECONDS
        # b"" without a writer, None while a writer has not written yet
        while (first := pipe.read(1)) == b"":
            if time.monotonic() > end:
                raise OSError(errno.EINVAL, "it is a pipe without a writer", str(path))
            time.sleep(0.01)
        os.set_blocking(pipe.fileno(), True)
        return (first or b"") + pipe.readall()


def _not_regular(path: Path) -> OSError:
    if path.is_dir():
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return OSError(errno.EINVAL, "it is a pipe or device, not a file", str(path))
