"""The user's cache: results that are expensive to recompute, in files that only this user can write.

The cache never fails a job: a damaged or foreign file is ignored.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from ._files import atomic_file, read_regular
from .errors import CaanWarning, OutputError

T = TypeVar("T")


def cache_folder(name: str) -> Path:
    """The cache folder `name`: $CAAN_CACHE/name, else caan/name in the user's cache folder.

    Without a folder that only this user can write to, returns an impossible path and warns (CaanWarning) of the reason.
    """
    if named := os.environ.get("CAAN_CACHE"):
        folder = Path(named)
    else:
        try:
            folder = _user_cache()
        except RuntimeError:
            return _without_cache(name, "this user has no home folder")
    for path in (folder, folder / name):
        if reason := _reason_to_distrust(path):
            return _without_cache(name, f"{path} {reason}")
    return folder / name


def cache_file(folder: str, key: str, suffix: str) -> Path:
    """The cache file, or folder, of a key. Any two keys have different ones."""
    return cache_folder(folder) / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}{suffix}"


def read_cached(
    path: Path, read: Callable[[bytes], T], damaged: Callable[[str], None] = lambda reason: None
) -> T | None:
    """The result of `read` for a cached file's bytes; None if the file does not exist.

    If the file can't be read or `read` raises, calls `damaged` with the reason and returns None. Any exception counts,
    since foreign content may raise anything.
    """
    try:
        return read(read_regular(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:
        damaged(str(error.strerror) if isinstance(error, OSError) else str(error))
        return None


def write_cached(path: Path, content: bytes | memoryview, what: str, *, stacklevel: int = 3) -> None:
    """Store a result, replacing an old one. On failure warns (CaanWarning), naming `what`."""
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    except (OutputError, OSError) as error:
        message = f"{what} can't be saved: {error}; name a folder with CAAN_CACHE"
        warnings.warn(message, CaanWarning, stacklevel=stacklevel)


def sealed(content: bytes, magic: bytes = b"") -> bytes:
    """Content prefixed with its SHA-256, for libraries that would trust damaged bytes."""
    return magic + hashlib.sha256(content).digest() + content


def unsealed(stored: bytes, magic: bytes = b"") -> bytes:
    """The content of a result of `sealed`. Raises ValueError for anything else."""
    content = stored[len(magic) + 32 :]
    if stored != sealed(content, magic):
        raise ValueError("its checksum does not match its content")
    return content


def _user_cache() -> Path:
    """caan's folder in this user's cache folder, on Linux $XDG_CACHE_HOME, else ~/.cache.

    Raises RuntimeError for a user without a home folder.
    """
    from platformdirs import user_cache_path

    if not os.environ.get("XDG_CACHE_HOME", "").strip():
        Path.home()  # raises; platformdirs would use a folder named ~
    return user_cache_path("caan", appauthor=False)


@cache
def _without_cache(name: str, reason: str) -> Path:
    """A path that can't exist. Cached, so that the warning appears once."""
    message = f"results are not cached: {reason}; name a folder of your own with CAAN_CACHE"
    warnings.warn(message, CaanWarning, stacklevel=4)
    return Path(os.devnull) / "caan" / name


def _reason_to_distrust(folder: Path) -> str | None:
    """Why other users may have written to a folder; None if only this user can, or it does not exist."""
    try:
        status = folder.stat()
    except OSError:
        return None
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user ({status.st_uid})"
    # On many systems a user's primary group has no other members.
    others = stat.S_IWOTH if status.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    return "can be written to by others" if status.st_mode & others else None


def is_of_others(path: Path) -> bool:
    """Whether a file belongs to a user other than this one and root."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are private
        return False
    with suppress(OSError):
        return path.stat().st_uid not in (os.geteuid(), 0)
    return False
