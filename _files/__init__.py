"""Atomic writing of files and folders: readers see the old or the new version, and no user files are lost.

The operating system's errors become OutputErrors that name the target (`refusals`).

This module writes files. `folders` writes folders, `locks` and `claims` exclude other processes, `stamps` reads related
files consistently, `outputs` resolves output paths, `ownership` tells caan's files from the user's, and `leftovers`
removes the files of killed processes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError
from . import leftovers, outputs
from .folders import PARTIAL as PARTIAL
from .folders import Outdated as Outdated
from .folders import atomic_folder as atomic_folder
from .folders import check_change as check_change
from .folders import check_target as check_target
from .folders import make_own_folder as make_own_folder
from .folders import resumable_folder as resumable_folder
from .folders import settle as settle
from .folders import unfinished_folder as unfinished_folder
from .locks import locked as locked
from .ownership import keep_attributes
from .reading import open_regular as open_regular
from .reading import read_input as read_input
from .reading import read_regular as read_regular
from .refusals import check_room, reason_of
from .refusals import explained as explained
from .stamps import read_consistently as read_consistently
from .stamps import stamp_of as stamp_of


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on an exception it is removed.

    A link stays a link: its destination is replaced, and keeps its mode and owner. Pipes, devices and /dev/stdout are
    written to when the block ends. Raises OutputError before the block if the target is a folder or can't be written,
    and whenever the disk is full.
    """
    with explained(target, creating=True):
        place = outputs.place_of(target)
    if place is None:
        with explained(target), outputs.written_through(target) as temporary:
            yield temporary
        return
    with explained(target, creating=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        leftovers.remove_beside(place.parent)
        replaces = place.exists()
        # The replacement of a private file must be private from the start.
        temporary, handle = leftovers.new_file(place, 0o600 if replaces else 0o666)
    try:
        with explained(target):
            yield temporary
            if replaces:
                with suppress(FileNotFoundError):
                    keep_attributes(place, temporary)
            temporary.replace(place)
    finally:
        if handle is not None:
            os.close(handle)
        temporary.unlink(missing_ok=True)


def check_file_target(target: Path, *, overwrite: bool = True) -> None:
    """Raise OutputError early if `target` can't be written, or exists without `overwrite`."""
    with explained(target, creating=True):
        place = outputs.place_of(target)
        if place is None:
            return
        check_room(place.parent)
        if place.exists() and not overwrite:
            raise OutputError(f"{target} exists already; add --overwrite to replace it, or name another with -o")


@contextmanager
def temporary_folder(name: str, what: str = "work in progress") -> Iterator[Path]:
    """Yield a new folder in the system's temporary folder, removed afterwards.

    Raises OutputError if none is writable, or the disk is full.
    """
    handle = None
    try:
        inside = Path(tempfile.gettempdir())
        leftovers.remove_scratch(inside)
        folder, handle = leftovers.new_scratch(inside, name)
    except OSError as error:
        raise OutputError(
            f"there is no temporary folder for {what} ({reason_of(error)}); name one with TMPDIR"
        ) from error
    try:
        yield folder
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"no room for {what} in the temporary folder ({reason_of(error)}); free some space, or set TMPDIR to"
            " another folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def reserve(path: Path) -> None:
    """Allocate disk space for a file that will be written through a memory map.

    Raises OSError on a full disk, which would kill the process with SIGBUS when writing through the map.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
                raise


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
