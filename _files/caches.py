"""The folder for results that are expensive to recompute, and whose files are trusted."""

from __future__ import annotations

import os
import stat
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import CaanWarning


def cache_folder(name: str) -> Path:
    """The folder for results that are expensive to recompute: $CAAN_CACHE/name, else the user's cache/caan/name.

    A path that can't be, with a CaanWarning that says why, where there is none that only this user can write to.
    """
    if named := os.environ.get("CAAN_CACHE"):
        folder = Path(named)
    else:
        try:
            folder = _user_cache()
        except RuntimeError:
            return _without_cache(name, "this user has no home")
    for some in (folder, folder / name):
        if reason := _reason_to_distrust(some):
            return _without_cache(name, f"{some} {reason}")
    return folder / name


def _user_cache() -> Path:
    """Where the operating system keeps this user's caches: on Linux $XDG_CACHE_HOME, else ~/.cache.

    Raises RuntimeError for a user without a home.
    """
    from platformdirs import user_cache_path

    if not os.environ.get("XDG_CACHE_HOME", "").strip():
        Path.home()  # raises; platformdirs would take a folder named ~
    return user_cache_path("caan", appauthor=False)


@cache
def _without_cache(name: str, reason: str) -> Path:
    """Where nothing can be read or written. Cached: it is said once."""
    message = f"nothing is kept for the next time: {reason}; name a folder of your own with CAAN_CACHE"
    warnings.warn(message, CaanWarning, stacklevel=4)
    return Path(os.devnull) / "caan" / name


def _reason_to_distrust(folder: Path) -> str | None:
    """Why what a folder holds may be another user's; None if it is this user's alone, or not there yet."""
    try:
        status = folder.stat()
    except OSError:
        return None
    if not hasattr(os, "geteuid"):
        return None
    if status.st_uid not in (os.geteuid(), 0):
        return f"belongs to another user ({status.st_uid})"
    # A group of which this is the main one is, on many systems, the user's alone.
    others = stat.S_IWOTH if status.st_gid == os.getegid() else stat.S_IWOTH | stat.S_IWGRP
    return "can be written to by others" if status.st_mode & others else None


def is_of_others(path: Path) -> bool:
    """Whether a file belongs to somebody else than this user or the system's administrator, who can do all anyway."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's
        return False
    with suppress(OSError):
        return path.stat().st_uid not in (os.geteuid(), 0)
    return False
