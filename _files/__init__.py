"""Writing files and folders so that a reader sees the old one or the new one, never a half, and nothing of the user's
is lost.

An operating system's refusal becomes an OutputError that names the target.

`outputs` says where an output file really goes, `ownership` which entries of a folder are the user's, and `leftovers`
removes what killed processes left.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..errors import BundleError, CaanWarning, InputError, OutputError
from . import leftovers, outputs
from .claims import claimed
from .ownership import (
    carry_over,
    entries_of,
    keep_attributes,
    keep_attributes_of_all,
    kind_of,
    mount_points,
    remove_ours,
)
from .reading import open_regular as open_regular
from .reading import read_input as read_input
from .reading import read_regular as read_regular

T = TypeVar("T")

PARTIAL = ".partial"
# Files that belong together are read again so often while they are being replaced, with a pause that grows.
_MOST_READS, _LONGEST_PAUSE = 60, 0.1
_MOST_NAMED = 3  # of the user's files in a folder that is not replaced
_REFUSALS = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR", "EFBIG", "EIO", "ENAMETOOLONG", "EPIPE", "EXDEV"),
        *("EBUSY", "ENXIO", "EBADF", "ELOOP", "ENODEV", "ESTALE"),
    )
    if hasattr(errno, name)
}


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; move it there when the block ends well, remove it otherwise.

    A target that is a link stays one: what it leads to is replaced, and keeps its mode and owner. What is not a regular
    file, a pipe, a device or /dev/stdout, is written through when the block ends. Raises OutputError, before the block,
    if the target is a folder or can't be written, and if the disk is full.
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
        # Nobody may read what replaces a private file, not even before it does.
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
    """Raise OutputError early if writing the file `target` is bound to fail, or would replace one unasked."""
    with explained(target, creating=True):
        place = outputs.place_of(target)
        if place is None:
            return
        _check_room(place.parent)
        if place.exists() and not overwrite:
            raise OutputError(f"{target} exists already; add --overwrite to replace it, or name another with -o")


@contextmanager
def temporary_folder(name: str, what: str = "work in progress") -> Iterator[Path]:
    """A folder in the system's temporary folder, removed afterwards.

    Raises OutputError where there is none that can be written to, and when the disk is full.
    """
    handle = None
    try:
        inside = Path(tempfile.gettempdir())
        leftovers.remove_scratch(inside)
        folder, handle = leftovers.new_scratch(inside, name)
    except OSError as error:
        raise OutputError(
            f"there is no temporary folder that {what} could be written to ({_reason(error)}); name one with TMPDIR"
        ) from error
    try:
        yield folder
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"no room for {what} in the temporary folder ({_reason(error)}); free some space, or set TMPDIR to another"
            " folder"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def resumable_folder(target: Path, *, overwrite: bool = False, kind: str | None = None) -> Iterator[Path]:
    """Yield the folder `target.partial`, perhaps from an earlier run; put it in the target's place when all is well.

    Otherwise it stays, unless it is empty, for the next run to go on with. One process at a time may use it. Raises
    OutputError as `atomic_folder`, and if another process is at it.
    """
    with explained(target, creating=True):
        place = target.resolve()  # a link stays one: what it leads to is replaced
        if place.suffix == PARTIAL:
            raise OutputError(f"{target} ends in {PARTIAL}, as work in progress does; name another with -o")
        partial = place.with_name(f"{place.name}{PARTIAL}")
        _settle(place, partial)
    check_target(target, overwrite=overwrite, kind=kind)
    with explained(target, creating=True):
        make_own_folder(partial)
    with (
        explained(target, resumable=True),
        locked(partial, wait=False) as is_locked,
        nullcontext() if is_locked else claimed(partial),
    ):
        check_target(target, overwrite=overwrite, kind=kind)  # another process may have come first
        try:
            yield partial
        except BaseException:
            if not any(partial.iterdir()):
                partial.rmdir()
            raise
        # Held until the old folder is gone: it must not be taken for a leftover.
        with locked(place):
            check_target(target, overwrite=overwrite, kind=kind)
            _swap_in(partial, place)


def make_own_folder(folder: Path) -> None:
    """Make a folder for work in progress, if it is not there yet.

    What others put there would be written to: raises OutputError for a link, a file, or the folder of another user.
    The owner of the folder around it, who can replace all that is in it anyway, is not another.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
        return
    except FileExistsError:
        status = folder.lstat()
    remedy = "remove it, or name another with -o"
    if not stat.S_ISDIR(status.st_mode):
        what = "a link" if stat.S_ISLNK(status.st_mode) else "not a folder"
        raise OutputError(f"{folder}, where it is written first, is {what}; {remedy}")
    if hasattr(os, "geteuid") and status.st_uid not in (os.geteuid(), folder.parent.stat().st_uid):
        raise OutputError(f"{folder}, where it is written first, belongs to another user ({status.st_uid}); {remedy}")


class Outdated(Exception):  # noqa: N818
    """What a new folder was made from has been replaced meanwhile; make it again."""


@contextmanager
def atomic_folder(
    target: Path,
    *,
    overwrite: bool = False,
    kind: str | None = None,
    unchanged: Callable[[], bool] = lambda: True,
    keep_others: bool = False,
) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; put it in its place when the block ends well.

    A target that is a link stays one: what it leads to is replaced. What is replaced keeps its mode and owner. Raises
    OutputError if the target exists and `overwrite` is false, holds files of the user's, can't be written, or the disk
    is full; Outdated if `unchanged` says no at the last moment, when no other process can replace the target any more.
    `keep_others`: the user's files are moved to the new folder instead.
    """
    with explained(target, creating=True):
        place = target.resolve()
        _settle(place)
    check_target(target, overwrite=overwrite, kind=kind, keep_others=keep_others)
    with explained(target, creating=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        leftovers.remove_beside(place.parent)
        # Nobody may look into what replaces a private folder, not even before it does.
        temporary, handle = leftovers.new_folder(place, 0o700 if place.exists() else 0o777)
    try:
        with explained(target):
            yield temporary
            with locked(place):
                check_target(target, overwrite=overwrite, kind=kind, keep_others=keep_others)
                if not unchanged():
                    raise Outdated
                _check_names(place, lambda other: os.path.lexists(temporary / other))
                _swap_in(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if handle is not None:
            os.close(handle)


def check_target(target: Path, *, overwrite: bool, kind: str | None = None, keep_others: bool = False) -> None:
    """Raise OutputError early if writing the folder `target` is bound to fail.

    kind: "bundle" or "gallery", what is written: the other one is not replaced by it. A folder with files that caan
    did not write is not replaced either; with `keep_others` it is, since they are moved to the new one.
    """
    with explained(target, creating=True):
        if not target.exists():
            _check_room(target.resolve().parent)
            return
        # Only what this program wrote may be replaced: --overwrite must not remove somebody's home folder.
        there = kind_of(target)
        replaceable = target.is_dir() and (there is not None or not any(target.iterdir()))
    if not overwrite:
        raise OutputError(f"{target} exists already; add --overwrite to replace it, or name another with -o")
    if not replaceable:
        raise OutputError(f"{target} was not written by caan, so it is not replaced; name another with -o")
    if kind is not None and there is not None and there != kind:
        raise OutputError(f"{target} is a {there}, which no {kind} replaces; name another with -o")
    with explained(target, creating=True):
        _check_room(target)  # what is protected is not replaced
        mounted, others = mount_points(target), entries_of(target).others
    if mounted:
        what = "is a mount point" if mounted[0] == target.resolve() else f"holds the mount point {mounted[0].name}"
        raise OutputError(f"{target} {what}, so it can't be replaced; name another folder")
    if others and not keep_others:
        named = ", ".join(others[:_MOST_NAMED]) + (", …" if len(others) > _MOST_NAMED else "")
        raise OutputError(
            f"{target} also holds what caan did not write ({named}), so it is not replaced; move that away, or name"
            " another with -o"
        )


def check_change(folder: Path, names: Collection[str]) -> None:
    """Raise OutputError early if these files can't become part of a bundle that is there, with `keep_others`."""
    check_target(folder, overwrite=True, kind="bundle", keep_others=True)
    with explained(folder, creating=True):
        _check_names(folder, lambda other: any(f"{name}/".startswith(f"{other}/") for name in names))
        probe, handle = leftovers.new_folder(folder.resolve(), 0o700)
        probe.rmdir()
        if handle is not None:
            os.close(handle)


def reserve(path: Path) -> None:
    """Take the room on disk for a file that will be written through a memory map.

    Written there, a full disk would end the process with a bus error; here it is an OSError.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
                raise


@contextmanager
def explained(target: Path, *, creating: bool = False, resumable: bool = False) -> Iterator[None]:
    """Turn a refusal to write into an OutputError; while `creating` the target, whatever the refusal is.

    resumable: what is done so far is kept, and the same command goes on with it.
    """
    try:
        yield
    except OSError as error:
        # numpy.save meets a full disk with an OSError that has no number: "3600 requested and 2016 written".
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and "written" in str(error)):
            again = " and give the same command again, it goes on where it was;" if resumable else ","
            raise OutputError(
                f"the disk of {target.parent} is full, {target.name} was not written; free some space{again} or name"
                " another place"
            ) from error
        if creating or error.errno in _REFUSALS:
            raise OutputError(f"can't write {str(target)[:200]}: {_reason(error)}; name another place") from error
        raise


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[bool]:
    """Keep other processes from replacing a folder. No lock where it isn't there yet, or the system has none.

    Gives whether there is a lock. Raises OutputError, unless it may wait, if another process holds it; there a system
    without locks is a CaanWarning.
    """
    is_locked = False
    while (handle := _open_folder(folder)) is not None:
        try:
            is_locked = _lock(handle, folder, wait)
            if _is_still(handle, folder):
                break
        except BaseException:
            os.close(handle)
            raise
        # Replaced while we waited: what we hold is the old folder.
        os.close(handle)
    try:
        yield is_locked
    finally:
        if handle is not None:
            os.close(handle)


# Without filelock: its FileLock can't open a folder and would leave a lock file beside it, while a lock on the folder
# itself shows that another folder has replaced it. Its lock_descriptor is the flock call below, but waits by polling.
def _open_folder(folder: Path) -> int | None:
    """A handle to lock; None where there is no such folder, or the system can't open one."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return os.open(folder, os.O_RDONLY)
    return None


def _lock(handle: int, folder: Path, wait: bool) -> bool:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise OutputError(f"another process is writing {folder}; wait for it, or name another place") from error
    except (ImportError, OSError) as error:  # a system or network drive without locks
        if not wait:
            reason = error.strerror if isinstance(error, OSError) else "this system has none"
            warnings.warn(
                f"there are no locks where {folder} is ({reason}): of two processes that write it at once, one fails",
                CaanWarning,
                stacklevel=6,
            )
        return False
    return True


def _is_still(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def read_unmixed(published: Path, read: Callable[[], T]) -> T:
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


def cache_folder(name: str) -> Path:
    """The folder for results that are dear to compute again: $CAAN_CACHE/name, else the user's cache/caan/name.

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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _swap_in(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`. The user's files in the old one go with it, then the old one is removed."""
    if not target.exists():
        new.rename(target)
        return
    keep_attributes_of_all(target, new)
    # From here on `new` has a name that tells a killed process's successor what to do: see `_settle`.
    beside = leftovers.aside(target, new)
    os.rename(new, beside)  # noqa: PTH104  (Path.rename is what the tests make fail)
    try:
        old = beside if _exchange(beside, target) else _exchange_in_steps(beside, target)
    except OSError:
        os.rename(beside, new)  # noqa: PTH104
        raise
    try:
        kept = carry_over(old, target)
    except OSError:  # a folder of another user's, which may not be moved
        target.rename(new)
        old.rename(target)
        raise
    if not remove_ours(old):
        _warn_of(old, kept)


def _exchange_in_steps(new: Path, target: Path) -> Path:
    """Where there is no atomic exchange, the old folder steps aside, and comes back if the second step fails."""
    old = leftovers.aside(target, new)
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    return old


def _settle(place: Path, partial: Path | None = None) -> None:
    """Finish what a process was at when it was killed while it replaced `place`, or had just done so.

    The user's files go to the new folder. One that was complete but not yet there becomes `partial`, to go on with.
    """
    for left, is_new in leftovers.left_aside(place):
        with leftovers.claimed(left) as dead:
            if not dead:
                continue
            if is_new and partial is not None and not os.path.lexists(partial):
                left.rename(partial)
            elif not is_new and not os.path.lexists(place):
                left.rename(place)
            else:
                kept = carry_over(left, place) if place.is_dir() else []
                if not remove_ours(left):
                    _warn_of(left, kept)


def _check_room(folder: Path) -> None:
    """Raise OSError if a folder, or the one that it would be made in, is closed to writing."""
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not os.access(folder, os.W_OK):
        code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(code, os.strerror(code), str(folder))


def _check_names(folder: Path, is_taken: Callable[[str], bool]) -> None:
    """Raise OutputError if something of the user's has a name that caan needs."""
    for other in entries_of(folder).others if folder.exists() else ():
        if is_taken(other):
            raise OutputError(f"{folder / other} was not written by caan, but stands where it writes; move it away")


def _warn_of(old: Path, kept: list[str]) -> None:
    warnings.warn(
        f"{old} holds {', '.join(kept[:_MOST_NAMED]) or 'files'}, which caan did not write and could not move; take"
        " what is yours",
        CaanWarning,
        stacklevel=4,
    )


def _reason(error: OSError) -> str:
    """What the operating system says; NumPy and the standard library also raise OSErrors with a message alone."""
    return error.strerror or str(error) or type(error).__name__


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
