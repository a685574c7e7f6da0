"""Records which engine plans were built here. A plan is a program; one from elsewhere runs only if trusted.

Building an engine stores a file with each plan's hash in the user's cache. Files owned by other users are ignored.
Standard library only.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from .._cache import cache_folder
from .._files import atomic_file, open_regular
from ..errors import CaanWarning, OutputError


def remember_plan(sha256: str) -> None:
    """Record that a plan was built here; CaanWarning if that fails."""
    try:
        with atomic_file(_record(sha256)) as temporary:
            temporary.write_text(sha256, encoding="ascii")
    except (OutputError, OSError) as error:
        warnings.warn(f"the engine will need --trust-engines: {error}", CaanWarning, stacklevel=3)


def was_built_here(sha256: str) -> bool:
    """Whether this user built the plan with this hash."""
    try:
        with open_regular(_record(sha256)) as file:
            status = os.fstat(file.fileno())
            # Compare the content too: any of the user's files could have this name.
            return _is_own(status) and file.read(len(sha256) + 1) == sha256.encode()
    except (OSError, ValueError):
        return False


def _is_own(status: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _record(sha256: str) -> Path:
    return cache_folder("built-plans") / sha256
