"""Where an output file really goes: links are followed, and what is not a regular file is written through."""

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
    """The regular file to replace, or to make, when `target` is written; None for what is written through.

    Written through are open files by their number (/dev/stdout, /dev/fd/3), pipes, devices, and a file that is a mount
    point. Raises OSError, which says why, for a folder and whatever else can't be written to.
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
    os.close(os.open(place, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)))  # raises what writing would
    return None if place in mount_points(place) else place


def is_special(target: Path) -> bool:
    """Whether this is not the name of a regular file: an open file's number, a pipe, a device."""
    return descriptor_of(target) is not None or (target.exists() and not (target.is_file() or target.is_dir()))


def is_standard_output(target: Path) -> bool:
    """Whether writing this file writes to the standard output."""
    return descriptor_of(target) == 1


def descriptor_of(target: Path) -> int | None:
    """The number of this process's open file that a name like /dev/stdout or /dev/fd/3 means."""
    path, own = target, rf"/proc/(self|{os.getpid()})(/task/\d+)?/fd|/dev/fd"
    for _ in range(_MOST_LINKS):
        if re.fullmatch(r"[0-9]{1,9}", path.name) and re.fullmatch(own, os.path.realpath(path.parent)):
            return int(path.name)
        try:
            path = path.parent / path.readlink()
        except OSError:
            return None
    return None


@contextmanager
def written_through(target: Path) -> Iterator[Path]:
    """Yield a file in memory, or a temporary one; its content is written to `target` when the block ends well."""
    with _collected() as (path, handle):
        yield path
        os.lseek(handle, 0, os.SEEK_SET)
        number = descriptor_of(target)
        if number == 1 and sys.stdout is not None:
            sys.stdout.flush()  # what was printed before comes before
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
    """Raise OSError unless the file of this number is open for writing."""
    os.fstat(number)
    try:
        import fcntl
    except ImportError:
        return
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "it is open for reading only")
