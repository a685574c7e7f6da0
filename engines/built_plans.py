"""Which engine plans were built here. A plan is a program: one that came from elsewhere runs only if it is trusted.

Building an engine leaves a file with each plan's hash in the user's cache. One that another user put there counts for
nothing. Standard library only.
"""

from __future__ import annotations

import os
import stat
import warnings
from pathlib import Path

from .._files import atomic_file, cache_folder, open_regular
from ..errors import CaanWarning, OutputError


def remember_plan(sha256: str) -> None:
    """Keep that a plan was built here. A CaanWarning says so if that can't be kept."""
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
            # The name alone could be given to a file of the user's that says something else.
            return _is_own(status) and file.read(len(sha256) + 1) == sha256.encode()
    except (OSError, ValueError):
        return False


def _is_own(status: os.stat_result) -> bool:
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's
        return True
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _record(sha256: str) -> Path:
    return cache_folder("built-plans") / sha256
