"""The operating system's write errors as OutputErrors that name the target.

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
    """Turn a write error into an OutputError; with `creating`, any OSError.

    resumable: finished work is kept, and rerunning the command resumes.
    """
    try:
        yield
    except OSError as error:
        # On a full disk numpy.save raises an OSError without errno: "3600 requested and 2016 written".
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "written" in str(error)):
            again = " and rerun the same command to resume," if resumable else ","
            raise OutputError(
                f"the disk of {target.parent} is full, {target.name} was not written; free some space{again} or name"
                " another place"
            ) from error
        if creating or error.errno in _REFUSALS:
            raise OutputError(f"can't write {str(target)[:200]}: {reason_of(error)}; name another place") from error
        raise


def check_room(folder: Path) -> None:
    """Raise OSError if a folder, or its nearest existing parent, is not writable."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def reason_of(error: OSError) -> str:
    """The operating system's reason; NumPy and the standard library also raise OSErrors with only a message."""
    return error.strerror or str(error) or type(error).__name__
