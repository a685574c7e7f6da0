"""Writing files and folders so that a reader sees the old one or the new one, never a half.

Standard library only. An operating system's refusal becomes an OutputError that names the target.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; move it there when the block ends well, remove it otherwise.

    Raises OutputError if the target can't be written or the disk is full.
    """
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _explained(target):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; put it in its place when the block ends well.

    Raises OutputError if the target exists and `overwrite` is false, can't be written, or the disk is full.
    """
    check_target(target, overwrite=overwrite)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with _explained(target):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            check_target(target, overwrite=overwrite)
            _swap_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Raise OutputError early if writing the folder `target` is bound to fail."""
    if not target.exists():
        return
    if not overwrite:
        raise OutputError(f"{target} exists already; add --overwrite to replace it, or name another with -o")
    # Only what this program wrote may be replaced: --overwrite must not remove somebody's home folder.
    if not (target.is_dir() and (any(target.glob("*.json")) or not any(target.iterdir()))):
        raise OutputError(f"{target} was not written by caan, so it is not replaced; name another with -o")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(
                f"the disk of {target.parent} is full, {target.name} was not written; free some space, or name"
                " another place with -o"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise OutputError(f"can't write {target}: {error.strerror}; name another place with -o") from error
        raise


def _swap_in(new: Path, target: Path) -> None:
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):
        # No atomic exchange on this system: the old folder steps aside, and comes back if the second step fails.
        aside = new.with_suffix(".old")
        target.rename(aside)
        try:
            new.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step (Linux's renameat2); False where that is not to be had."""
    if not sys.platform.startswith("linux"):
        return False
    at_cwd, rename_exchange = -100, 2
    with suppress(AttributeError, OSError):
        renameat2 = ctypes.CDLL(None).renameat2
        done: int = renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), rename_exchange)
        return done == 0
    return False


def _umask() -> int:
    # The only portable way to read the umask is to set it.
    current = os.umask(0o077)
    os.umask(current)
    return current
