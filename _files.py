"""Writing files and folders so that a reader sees the old one or the new one, never a half.

Standard library only. An operating system's refusal becomes an OutputError that names the target.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from .errors import BundleError, InputError, OutputError

T = TypeVar("T")

PARTIAL = ".partial"
_OUR_FORMAT = re.compile(rb'"format":\s*"caan-(bundle|gallery)"')
_DESCRIPTIONS = ("manifest.json", "gallery.json")
_REFUSALS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "EROFS", "ENOTDIR", "EEXIST", "EISDIR", "EFBIG", "EIO", "ENAMETOOLONG")
}
# Files that belong together are read again so often while they are being replaced, with a pause that grows.
_MOST_READS, _LONGEST_PAUSE = 60, 0.1
# Nobody may ever write into a pipe that was named: so long is waited for who does.
_PIPE_SECONDS = 1.0


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; move it there when the block ends well, remove it otherwise.

    Raises OutputError if the target can't be written or the disk is full.
    """
    with explained(target, creating=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with explained(target):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(name: str, what: str = "work in progress") -> Iterator[Path]:
    """A folder in the system's temporary folder, removed afterwards. Raises OutputError when the disk is full."""
    try:
        with tempfile.TemporaryDirectory(prefix=f"caan-{name}-") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(
            f"no room for {what} in the temporary folder ({error.strerror}); free some space, or set TMPDIR to another"
            " folder"
        ) from error


@contextmanager
def resumable_folder(target: Path, *, overwrite: bool = False, kind: str | None = None) -> Iterator[Path]:
    """Yield the folder `target.partial`, perhaps from an earlier run; put it in the target's place when all is well.

    Otherwise it stays, unless it is empty, for the next run to go on with. One process at a time may use it. Raises
    OutputError as `atomic_folder`, and if another process is at it.
    """
    check_target(target, overwrite=overwrite, kind=kind)
    with explained(target, creating=True):
        place = target.resolve()  # a link stays one: what it leads to is replaced
        if place.suffix == PARTIAL:
            raise OutputError(f"{target} ends in {PARTIAL}, as work in progress does; name another with -o")
        partial = place.with_name(f"{place.name}{PARTIAL}")
        partial.mkdir(parents=True, exist_ok=True)
    with explained(target, resumable=True), locked(partial, wait=False):
        check_target(target, overwrite=overwrite, kind=kind)  # another process may have come first
        try:
            yield partial
        except BaseException:
            if not any(partial.iterdir()):
                partial.rmdir()
            raise
        # Held until the old folder is gone: it has this one's name then, and must not be taken for work in progress.
        with locked(place):
            check_target(target, overwrite=overwrite, kind=kind)
            if _swap_in(partial, place):
                shutil.rmtree(partial, ignore_errors=True)


class Outdated(Exception):  # noqa: N818
    """What a new folder was made from has been replaced meanwhile; make it again."""


@contextmanager
def atomic_folder(
    target: Path,
    *,
    overwrite: bool = False,
    kind: str | None = None,
    unchanged: Callable[[], bool] = lambda: True,
) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; put it in its place when the block ends well.

    A target that is a link stays one: what it leads to is replaced. Raises OutputError if the target exists and
    `overwrite` is false, can't be written, or the disk is full; Outdated if `unchanged` says no at the last moment,
    when no other process can replace the target any more.
    """
    check_target(target, overwrite=overwrite, kind=kind)
    with explained(target, creating=True):
        if target.is_symlink():
            target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with explained(target):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            with locked(target):
                check_target(target, overwrite=overwrite, kind=kind)
                if not unchanged():
                    raise Outdated
                _swap_in(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool, kind: str | None = None) -> None:
    """Raise OutputError early if writing the folder `target` is bound to fail.

    kind: "bundle" or "gallery", what is written: the other one is not replaced by it.
    """
    with explained(target, creating=True):
        if not target.exists():
            return
        # Only what this program wrote may be replaced: --overwrite must not remove somebody's home folder.
        there = _kind_of(target)
        replaceable = target.is_dir() and (there is not None or not any(target.iterdir()))
    if not overwrite:
        raise OutputError(f"{target} exists already; add --overwrite to replace it, or name another with -o")
    if not replaceable:
        raise OutputError(f"{target} was not written by caan, so it is not replaced; name another with -o")
    if kind is not None and there is not None and there != kind:
        raise OutputError(f"{target} is a {there}, which no {kind} replaces; name another with -o")


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
            raise OutputError(f"can't write {str(target)[:200]}: {error.strerror}; name another place") from error
        raise


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other processes from replacing a folder. No lock where it isn't there yet, or the system has none.

    Raises OutputError, unless it may wait, if another process holds the lock.
    """
    while (handle := _open_folder(folder)) is not None:
        try:
            _lock(handle, folder, wait)
            if _is_still(handle, folder):
                break
        except BaseException:
            os.close(handle)
            raise
        # Replaced while we waited: what we hold is the old folder.
        os.close(handle)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _open_folder(folder: Path) -> int | None:
    """A handle to lock; None where there is no such folder, or the system can't open one."""
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        return os.open(folder, os.O_RDONLY)
    return None


def _lock(handle: int, folder: Path, wait: bool) -> None:
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise OutputError(f"another process is writing {folder}; wait for it, or name another place") from error
    except (ImportError, OSError):  # a system or network drive without locks
        return


def _is_still(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file, or what leads to one, for reading. Raises OSError, at once, for anything else.

    A pipe or device would keep its reader waiting, perhaps for ever, or have no end.
    """
    # Looked at before it is opened, which some devices notice, and after, since it may have been replaced.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _not_regular(path)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _not_regular(path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path) -> bytes:
    """All bytes of a regular file. Raises OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def read_input(path: Path) -> bytes:
    """All bytes of a file that a user named, which may be a pipe, as /dev/stdin or the shell's <(command) are.

    Raises OSError, also for a pipe that nobody writes into.
    """
    if not stat.S_ISFIFO(path.stat().st_mode):
        with path.open("rb") as file:
            return file.read()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:
        end = time.monotonic() + _PIPE_SECONDS
        # Nothing: without a writer. None: while one has not written yet.
        while (first := pipe.read(1)) == b"":
            if time.monotonic() > end:
                raise OSError(errno.EINVAL, "it is a pipe, and nobody writes into it", str(path))
            time.sleep(0.01)
        os.set_blocking(pipe.fileno(), True)
        return (first or b"") + pipe.readall()


def _not_regular(path: Path) -> OSError:
    if path.is_dir():
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return OSError(errno.EINVAL, "it is a pipe or device, not a file", str(path))


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
    """The folder for results that are dear to compute again: $CAAN_CACHE/name, else the user's cache/caan/name."""
    if named := os.environ.get("CAAN_CACHE"):
        return Path(named) / name
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        cache = Path(tempfile.gettempdir())
    return cache / "caan" / name


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


def _kind_of(folder: Path) -> str | None:
    """Whether a folder is a "bundle" or a "gallery", perhaps a damaged one; None if it is neither."""
    for path in (folder / name for name in _DESCRIPTIONS):
        if path.is_file() and (found := _OUR_FORMAT.search(path.read_bytes())):
            return found[1].decode()
    return None


def _swap_in(new: Path, target: Path) -> bool:
    """Put `new` in the place of `target`; whether `new` is the old target now."""
    if not target.exists():
        new.rename(target)
        return False
    if _exchange(new, target):
        return True
    # No atomic exchange on this system: the old folder steps aside, and comes back if the second step fails.
    aside = new.with_name(f".{new.name}.old")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed amid these lines
    target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    return False


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
