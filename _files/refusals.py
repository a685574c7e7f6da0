"""What the operating system refuses, as errors that name the target.

Standard library only.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import OutputError

_REFUSALS = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR", "EFBIG", "EIO", "ENAMETOOLONG", "EPIPE", "EXDEV"),
        *("EBUSY", "ENXIO", "EBADF", "ELOOP", "ENODEV", "ESTALE"),
    )
    if hasattr(errno, name)
}


@contextmanager
def explained(target: Path, *, creating: bool = False, resumable: bool = False) -> Iterator[None]:
    """Turn a refusal to write into an OutputError; while `creating` the target, whatever the refusal is.

    resumable: what is done so far is kept, and the same command goes on with it.
    """
    try:
        yield
    except OSError as error:
        # numpy.save meets a full disk with an OSError that has no number: "3600 requested and 2016 written".
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "written" in str(error)):
            again = " and give the same command again, it goes on where it was;" if resumable else ","
            raise OutputError(
                f"the disk of {target.parent} is full, {target.name} was not written; free some space{again} or name"
                " another place"
            ) from error
        if creating or error.errno in _REFUSALS:
            raise OutputError(f"can't write {str(target)[:200]}: {reason_of(error)}; name another place") from error
        raise


def check_room(folder: Path) -> None:
    """Raise OSError if a folder, or the one that it would be made in, is closed to writing."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def reason_of(error: OSError) -> str:
    """What the operating system says; NumPy and the standard library also raise OSErrors with a message alone."""
    return error.strerror or str(error) or type(error).__name__
