"""Safe writing of a gallery's files: only regular files, and never one that another process may be reading."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ...errors import OutputError

_ANY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_COPY_BYTES = 1 << 28
# Errors of copy_file_range on which the bytes are copied by reading and writing instead.
_NO_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def check_regular(path: Path) -> None:
    """Raise OutputError if a path about to be written or replaced is a link or not a regular file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        raise OutputError(f"{path} is {what}, not one of the gallery's own files; replace it with a copy: cp -rL")


def create(path: Path) -> BinaryIO:
    """A new file for writing, replacing what an interrupted run left there."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _ANY, 0o666), "w+b")


def reopen(path: Path, size: int, *, is_published: bool) -> BinaryIO:
    """A file of unfinished work, opened for writing after its first `size` bytes; the rest is discarded.

    A file others may be reading, because it was published or has another hard link, is left unchanged and replaced by
    a copy of its first bytes. Raises OSError for a link or a missing file.
    """
    handle = os.open(path, os.O_RDWR | _NO_LINK | _ANY)
    status = os.fstat(handle)
    file = os.fdopen(handle, "r+b")
    if (is_published and status.st_size != size) or status.st_nlink > 1:
        copy = path.with_name(f"{path.name}.tmp")
        with file, create(copy) as fresh:
            copy_bytes(file, fresh, size)
        copy.replace(path)
        return reopen(path, size, is_published=False)
    if status.st_size != size:
        file.truncate(size)
    file.seek(size)
    return file


def copy_bytes(source: BinaryIO, target: BinaryIO, size: int) -> None:
    """Append the first `size` bytes of one file to another; shares blocks on disk where the file system supports it.

    Raises OSError, also if the source is shorter.
    """
    target.flush()
    position, copied = target.seek(0, os.SEEK_END), 0
    while copied < size and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(
                source.fileno(), target.fileno(), min(_COPY_BYTES, size - copied), copied, position + copied
            )
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            break
        if count == 0:
            break  # end of file, or a file system that falsely reports success
        copied += count
    source.seek(copied)
    target.seek(position + copied)
    while copied < size:
        part = source.read(min(1 << 20, size - copied))
        if not part:
            raise OSError(errno.EIO, f"what it holds was truncated: {copied} bytes of {size}")
        target.write(part)
        copied += len(part)
    target.flush()


def keep_mode(file: BinaryIO, like: os.stat_result) -> None:
    """Give a new file the permissions, and if allowed the owner, of the file it replaces."""
    if not hasattr(os, "fchmod"):
        return
    status = os.fstat(file.fileno())
    if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
        with suppress(PermissionError):
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
    os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode) & 0o777)
