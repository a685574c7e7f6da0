"""Keeping other processes away where a file system has no locks: a file that only one process can create.

Standard library only.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold `.NAME.claim` beside a folder; whoever is killed meanwhile leaves it, for the next on this machine to take.

    Raises OutputError if another process holds it, perhaps on another machine.
    """
    claim = folder.with_name(f".{folder.name}.claim")
    while True:
        try:
            handle = os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            break
        except FileExistsError as error:
            if not _remove_left(claim):
                raise OutputError(
                    f"another process is writing {folder}; wait for it, or, if there is none, remove {claim}"
                ) from error
    try:
        with os.fdopen(handle, "w") as file:
            file.write(f"{os.getpid()} {platform.node()}\n")
        yield
    finally:
        claim.unlink(missing_ok=True)


def is_running(process: str, machine: str) -> bool:
    """Whether a process may be running still: on another machine nobody can tell."""
    if machine != platform.node() or not process.isdigit() or not hasattr(os, "getpgid"):
        return True
    try:
        os.getpgid(int(process))
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _remove_left(claim: Path) -> bool:
    """Whether a claim is gone, or was that of a process that ended without giving it up, and is gone now."""
    try:
        content = claim.read_text(errors="replace")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    process, _, machine = content.strip().partition(" ")
    if is_running(process, machine):
        return False
    # Two may have come this far: it is renamed by one of them, who sees whether it still is the one that was left.
    aside = claim.with_name(f"{claim.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        claim.rename(aside)
        if aside.read_text(errors="replace") != content:
            aside.rename(claim)
            return False
        aside.unlink()
    return True
