"""Names and locks of work in progress, and removal of files that killed processes left.

.NAME.caan-RANDOM.tmp     a file or folder being written, with nothing of the user's
.NAME.caan-INODE-RANDOM.old   a folder about to replace its target, or just replaced: see `_swap_in`
caan-JOB-RANDOM.tmp       a folder in the system's temporary folder

The creating process holds a lock on it for as long as it lives, so one that the owner can lock is a leftover. Without
locks nothing counts as a leftover. Locks on a network drive may be invisible to other machines: RANDOM starts with a
machine tag, and entries of other machines are kept for a week.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from stat import S_ISDIR, S_ISREG

_LONGEST = 50  # characters of the target's name: at four bytes each, the whole name is still valid
_BESIDE = re.compile(r"\..*\.caan-[0-9a-f]{12}\.tmp", re.DOTALL)
_SCRATCH = re.compile(r"caan-[a-z]+-[0-9a-f]{12}\.tmp")
_ASIDE = re.compile(r"([0-9a-f]+)-[0-9a-f]{12}\.old")
_RANDOM = re.compile(r"([0-9a-f]{4})[0-9a-f]{8}\.(tmp|old)$")
_ABANDONED = 7 * 24 * 3600  # seconds


def new_file(place: Path, mode: int) -> tuple[Path, int | None]:
    """Create an empty file beside `place`. Returns it and a handle that holds its lock; the umask applies to `mode`.

    No handle on Windows, where it would keep the file from being moved.
    """
    while True:
        path = _beside(place)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), mode)
        if os.name == "nt":
            os.close(handle)
            return path, None
        if _hold(handle, path):
            return path, handle
        os.close(handle)


def new_folder(place: Path, mode: int) -> tuple[Path, int | None]:
    """Create a folder beside `place`. Returns it and a handle that holds its lock (None if folders can't be opened)."""
    return _new_folder(lambda: _beside(place), mode)


def new_scratch(inside: Path, job: str) -> tuple[Path, int | None]:
    """As `new_folder`, private, in a temporary folder."""
    return _new_folder(lambda: inside / f"caan-{job}-{_random()}.tmp", 0o700)


def aside_path(place: Path, folder: Path) -> Path:
    """A name beside `place` for a folder about to replace it; its inode in the name tells new from old."""
    return place.with_name(f"{_prefix(place)}{folder.stat().st_ino:x}-{_random()}.old")


def remove_beside(folder: Path) -> None:
    """Remove the unfinished files of killed processes in a folder."""
    _remove(folder, _BESIDE)


def remove_scratch(folder: Path) -> None:
    """Remove the temporary folders of killed processes."""
    _remove(folder, _SCRATCH)


def left_aside(place: Path) -> list[tuple[Path, bool]]:
    """Folders that a killed process left beside `place`, and whether each is new (not yet in place).

    Old folders come first.
    """
    prefix = _prefix(place)
    result = []
    for name in _names(place.parent):
        if name.startswith(prefix) and (number := _ASIDE.fullmatch(name[len(prefix) :])):
            path = place.with_name(name)
            with suppress(OSError):
                result.append((path, path.lstat().st_ino == int(number[1], 16)))
    return sorted(result, key=lambda each: each[1])


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Lock a leftover. Yields whether it belongs to this user and a dead process; holds the lock meanwhile."""
    if not hasattr(os, "geteuid"):
        yield False
        return
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        handle = os.open(path, flags)
    except OSError:
        yield False
        return
    try:
        dead = _is_own(handle) and _is_near_or_old(handle, path) and _lock(handle, wait=False)
        yield dead and _is_there(handle, path)
    finally:
        os.close(handle)


def _new_folder(names: Callable[[], Path], mode: int) -> tuple[Path, int | None]:
    while True:
        path = names()
        os.mkdir(path, mode)  # noqa: PTH102  (as os.open above)
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except PermissionError:  # Windows opens no folders
            return path, None
        except FileNotFoundError:  # removed as a leftover before it could be locked
            continue
        if _hold(handle, path):
            return path, handle
        os.close(handle)


def _remove(folder: Path, form: re.Pattern[str]) -> None:
    for name in _names(folder):
        if form.fullmatch(name):
            path = folder / name
            with claimed(path) as dead, suppress(OSError):
                if dead and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif dead:
                    path.unlink()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208  (names alone)
    except OSError:
        return []


def _prefix(place: Path) -> str:
    name = place.name
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST - 9]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
    return f".{name}.caan-"


def _beside(place: Path) -> Path:
    return place.with_name(f"{_prefix(place)}{_random()}.tmp")


def _random() -> str:
    return f"{_machine()}{secrets.token_hex(4)}"


@cache
def _machine() -> str:
    """A tag shared by all processes whose locks this one sees: the machine with its containers, until reboot."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        name = platform.node().encode()
    return hashlib.sha256(name).hexdigest()[:4]


def _is_near_or_old(handle: int, path: Path) -> bool:
    random = _RANDOM.search(path.name)
    near = random is not None and random[1] == _machine()
    return near or time.time() - os.fstat(handle).st_mtime > _ABANDONED


def _hold(handle: int, path: Path) -> bool:
    """Lock a new file; False if another process removed it as a leftover before."""
    _lock(handle, wait=True)
    return _is_there(handle, path)


def _lock(handle: int, *, wait: bool) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def _is_own(handle: int) -> bool:
    status = os.fstat(handle)
    return status.st_uid == os.geteuid() and (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode))


def _is_there(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False
