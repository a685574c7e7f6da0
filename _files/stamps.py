"""Files that belong together, read while another process may replace them.

Standard library only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import BundleError, InputError

T = TypeVar("T")


# Files that belong together are read again so often while they are being replaced, with a pause that grows.
_MOST_READS, _LONGEST_PAUSE = 60, 0.1


def read_consistently(published: Path, read: Callable[[], T]) -> T:
    """What `read` makes of files that belong together; again, if `published`, which is replaced last, was meanwhile.

    Raises what `read` raises of files that stay, and BundleError for files that never stay long enough.
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
        # The files may be of two writings. Read them again.
        time.sleep(min(_LONGEST_PAUSE, attempt / 1000))
    raise BundleError(
        f"{published} was replaced each of {_MOST_READS} times that its files were read; try again when that is over"
    )


def stamp_of(path: Path) -> tuple[int, ...]:
    """Which writing of a file this is, that is always replaced and never written to; () if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_mtime_ns
