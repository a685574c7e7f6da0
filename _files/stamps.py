"""Consistent reading of related files that another process may replace meanwhile.

Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import BundleError, InputError

T = TypeVar("T")


# Number of attempts while files are being replaced, with growing pauses of at most this many seconds.
_MOST_READS, _LONGEST_PAUSE = 60, 0.1


def read_consistently(published: Path, read: Callable[[], T]) -> T:
    """The result of `read` for related files; retried if `published`, which is replaced last, changed meanwhile.

    Raises the errors of `read` for unchanged files, and BundleError if the files keep changing.
    """
    for attempt in range(_MOST_READS):
        stamp = stamp_of(published)
        try:
            result = read()
        except InputError:
            if stamp_of(published) == stamp:
                raise
        else:
            if stamp_of(published) == stamp:
                return result
        # The files may be from different versions. Read them again.
        time.sleep(min(_LONGEST_PAUSE, attempt / 1000))
    raise BundleError(
        f"{published} was replaced each of {_MOST_READS} times that its files were read; try again when that is over"
    )


def stamp_of(path: Path) -> tuple[int, ...]:
    """Identifies the version of a file that is only ever replaced, not modified; () if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns
