"""Mutual exclusion on file systems without locks: a claim file that only one process can create.

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
    """Hold `.NAME.claim` beside a folder. If the holder is killed, the next process on the same machine takes it over.

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
    """Whether a process may still be running; always true for other machines, where it can't be checked."""
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
    """Remove the claim of a dead process. Returns whether no claim is left."""
    try:
        content = claim.read_text(errors="replace")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    process, _, machine = content.strip().partition(" ")
    if is_running(process, machine):
        return False
    # Two processes may get here: one renames the claim and checks that it still is the dead process's.
    aside = claim.with_name(f"{claim.name}.{os.getpid()}.tmp")
    with suppress(FileNotFoundError):
        claim.rename(aside)
        if aside.read_text(errors="replace") != content:
            aside.rename(claim)
            return False
        aside.unlink()
    return True
