"""Files of a gallery's folder: written only if they are plain files, and where nobody else reads them."""

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
# Where one file system can't copy to another, or at all, without the bytes coming by here.
_NO_COPY = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def check_regular(path: Path) -> None:
    """Raise OutputError if a path, that is about to be replaced or written, leads elsewhere or is no plain file."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        what = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        raise OutputError(f"{path} is {what}, and only a gallery's own files are written; copy it: cp -rL")


def create(path: Path) -> BinaryIO:
    """A new file to write, in the place of what an interrupted run left there."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _ANY, 0o666), "w+b")


def reopen(path: Path, size: int, *, is_published: bool) -> BinaryIO:
    """A file of work in progress to write behind its first `size` bytes: what lies beyond is given up.

    A file that somebody else may read, since it was published or has another name, is left as it is, and a copy of
    its first bytes takes its place. Raises OSError for a link, or if it is not there.
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
    """Put the first `size` bytes of a file behind what another holds; shared on disk where the file system can.

    Raises OSError, also for a source that is shorter.
    """
    target.flush()
    position, copied = target.seek(0, os.SEEK_END), 0
    while copied < size and hasattr(os, "copy_file_range"):
        try:
            got = os.copy_file_range(
                source.fileno(), target.fileno(), min(_COPY_BYTES, size - copied), copied, position + copied
            )
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            break
        if got == 0:
            break  # its end, or a file system that pretends
        copied += got
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
    """Give a new file the permissions, and where that is allowed the owner, of the one whose place it takes."""
    if not hasattr(os, "fchmod"):
        return
    status = os.fstat(file.fileno())
    if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
        with suppress(PermissionError):
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
    os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode) & 0o777)
