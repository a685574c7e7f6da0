"""Resolving output paths: links are followed, and pipes, devices and open descriptors are written to directly."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG

from .ownership import mount_points

_MOST_LINKS = 40


def place_of(target: Path) -> Path | None:
    """The regular file to replace or create for `target`; None if `target` must be written to directly.

    Written to directly are open descriptors (/dev/stdout, /dev/fd/3), pipes, devices, and files that are mount points.
    Raises OSError, with the reason, for folders and anything else that can't be written.
    """
    if (number := descriptor_of(target)) is not None:
        _check_writable(number)
        return None
    place = Path(os.path.realpath(target))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return place
    if S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(target))
    if S_ISFIFO(mode) or S_ISCHR(mode):
        if not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
        return None
    if not S_ISREG(mode):
        raise OSError(errno.ENXIO, "it is a disk or a socket, not a file", str(target))
    os.close(os.open(place, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)))  # raises the same error as writing
    return None if place in mount_points(place) else place


def is_special(target: Path) -> bool:
    """Whether a path is not a regular file but an open descriptor, a pipe or a device."""
    return descriptor_of(target) is not None or (target.exists() and not (target.is_file() or target.is_dir()))


def is_standard_output(target: Path) -> bool:
    """Whether a path means standard output."""
    return descriptor_of(target) == 1


def descriptor_of(target: Path) -> int | None:
    """The descriptor that a path like /dev/stdout or /dev/fd/3 means in this process; None for other paths."""
    path, own_descriptors = target, rf"/proc/(self|{os.getpid()})(/task/\d+)?/fd|/dev/fd"
    for _ in range(_MOST_LINKS):
        if re.fullmatch(r"[0-9]{1,9}", path.name) and re.fullmatch(own_descriptors, os.path.realpath(path.parent)):
            return int(path.name)
        try:
            path = path.parent / path.readlink()
        except OSError:
            return None
    return None


@contextmanager
def written_through(target: Path) -> Iterator[Path]:
    """Yield an in-memory or temporary file; on success its content is written to `target`."""
    with _collected() as (path, handle):
        yield path
        os.lseek(handle, 0, os.SEEK_SET)
        number = descriptor_of(target)
        if number == 1 and sys.stdout is not None:
            sys.stdout.flush()  # keep the order of output
        flags = os.O_WRONLY | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
        to = os.dup(number) if number is not None else os.open(target, flags)
        with os.fdopen(to, "wb") as out, os.fdopen(os.dup(handle), "rb") as content:
            if number is None and S_ISREG(os.fstat(to).st_mode):
                out.truncate(0)
            shutil.copyfileobj(content, out)


@contextmanager
def _collected() -> Iterator[tuple[Path, int]]:
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        handle = os.memfd_create("caan")
        try:
            yield Path(f"/proc/self/fd/{handle}"), handle
        finally:
            os.close(handle)
    else:
        with tempfile.NamedTemporaryFile() as file:
            yield Path(file.name), file.fileno()


def _check_writable(number: int) -> None:
    """Raise OSError unless a descriptor is open for writing."""
    os.fstat(number)
    try:
        import fcntl
    except ImportError:
        return
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "it is open for reading only")
