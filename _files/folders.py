"""Atomic writing of folders: readers see the old or the new one, and no user files are lost.

Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from ..errors import CaanWarning, OutputError
from . import leftovers
from .claims import claimed
from .locks import locked
from .ownership import carry_over, entries_of, keep_attributes_of_all, kind_of, mount_points, remove_ours
from .refusals import check_room, explained

PARTIAL = ".partial"
_MOST_NAMED = 3  # user files listed in a message


@contextmanager
def unfinished_folder(partial: Path, target: Path) -> Iterator[None]:
    """Create or reopen `partial`, the folder of unfinished work on `target`, for this process alone.

    On an exception it stays, unless empty, for the next run to resume. Raises OutputError if another process is using
    it, or it can't be written.
    """
    with explained(target, creating=True):
        make_own_folder(partial)
    with (
        explained(target, resumable=True),
        locked(partial, wait=False) as is_locked,
        nullcontext() if is_locked else claimed(partial),
    ):
        try:
            yield
        except BaseException:
            if partial.is_dir() and not any(partial.iterdir()):
                partial.rmdir()
            raise


@contextmanager
def resumable_folder(target: Path, *, overwrite: bool = False, kind: str | None = None) -> Iterator[Path]:
    """Yield the folder `target.partial`, which may be from an earlier run; on success it replaces `target`.

    On an exception it stays, unless empty, for the next run to resume. Only one process at a time may use it. Raises
    OutputError as `atomic_folder`, and if another process is using it.
    """
    with explained(target, creating=True):
        place = target.resolve()  # a link stays a link: its destination is replaced
        if place.suffix == PARTIAL:
            raise OutputError(f"{target} ends in {PARTIAL}, as work in progress does; name another with -o")
        partial = place.with_name(f"{place.name}{PARTIAL}")
        settle(place, partial)
    check_target(target, overwrite=overwrite, kind=kind)
    with unfinished_folder(partial, target):
        check_target(target, overwrite=overwrite, kind=kind)  # another process may have written it meanwhile
        yield partial
        # Held until the old folder is gone, so that it isn't taken for a leftover.
        with locked(place):
            check_target(target, overwrite=overwrite, kind=kind)
            _swap_in(partial, place)


def make_own_folder(folder: Path) -> None:
    """Create a folder for work in progress, if it does not exist yet.

    Raises OutputError for a link, a file, or another user's folder, which could redirect writes. The owner of the
    parent folder is trusted, since they can replace its contents anyway.
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
    """The source of a new folder was replaced meanwhile; build it again."""


@contextmanager
def atomic_folder(
    target: Path,
    *,
    overwrite: bool = False,
    kind: str | None = None,
    unchanged: Callable[[], bool] = lambda: True,
    keep_others: bool = False,
) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it replaces `target`.

    A link stays a link: its destination is replaced. Mode and owner are kept. Raises OutputError if the target exists
    and `overwrite` is false, holds user files, can't be written, or the disk is full; Outdated if `unchanged` returns
    false just before the replacement, under the target's lock. `keep_others`: move the user's files to the new folder
    instead.
    """
    with explained(target, creating=True):
        place = target.resolve()
        settle(place)
    check_target(target, overwrite=overwrite, kind=kind, keep_others=keep_others)
    with explained(target, creating=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        leftovers.remove_beside(place.parent)
        # The replacement of a private folder must be private from the start.
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
    """Raise OutputError early if the folder `target` can't be written.

    kind: "bundle" or "gallery"; a folder of the other kind is not replaced. Neither is one with user files, unless
    `keep_others` moves them to the new folder.
    """
    with explained(target, creating=True):
        if not target.exists():
            check_room(target.resolve().parent)
            return
        # Replace only caan's own folders: --overwrite must not delete a home folder.
        existing = kind_of(target)
        replaceable = target.is_dir() and (existing is not None or not any(target.iterdir()))
    if not overwrite:
        raise OutputError(f"{target} exists already; add --overwrite to replace it, or name another with -o")
    if not replaceable:
        raise OutputError(f"{target} was not written by caan, so it is not replaced; name another with -o")
    if kind is not None and existing is not None and existing != kind:
        raise OutputError(f"{target} is a {existing}, so no {kind} replaces it; name another with -o")
    with explained(target, creating=True):
        check_room(target)  # a read-only folder is not replaced
        mounted, others = mount_points(target), entries_of(target).others
    if mounted:
        what = "is a mount point" if mounted[0] == target.resolve() else f"holds the mount point {mounted[0].name}"
        raise OutputError(f"{target} {what}, so it can't be replaced; name another folder")
    if others and not keep_others:
        named = ", ".join(others[:_MOST_NAMED]) + (", …" if len(others) > _MOST_NAMED else "")
        raise OutputError(
            f"{target} also holds files that caan did not write ({named}), so it is not replaced; move them away, or"
            " name another with -o"
        )


def check_change(folder: Path, names: Collection[str]) -> None:
    """Raise OutputError early if these files can't be added to an existing bundle, as with `keep_others`."""
    check_target(folder, overwrite=True, kind="bundle", keep_others=True)
    with explained(folder, creating=True):
        _check_names(folder, lambda other: any(f"{name}/".startswith(f"{other}/") for name in names))
        probe, handle = leftovers.new_folder(folder.resolve(), 0o700)
        probe.rmdir()
        if handle is not None:
            os.close(handle)


def _swap_in(new: Path, target: Path) -> None:
    """Replace `target` by `new`. The user's files move to the new folder, then the old one is removed."""
    if not target.exists():
        new.rename(target)
        return
    keep_attributes_of_all(target, new)
    # From here on the name of `new` tells the next process what to do if this one is killed: see `settle`.
    beside = leftovers.aside_path(target, new)
    os.rename(new, beside)  # noqa: PTH104  (Path.rename is what the tests make fail)
    try:
        old = beside if _exchange(beside, target) else _exchange_in_steps(beside, target)
    except OSError:
        os.rename(beside, new)  # noqa: PTH104
        raise
    try:
        kept = carry_over(old, target)
    except OSError:  # another user's folder, which can't be moved
        target.rename(new)
        old.rename(target)
        raise
    if not remove_ours(old):
        _warn_of(old, kept)


def _exchange_in_steps(new: Path, target: Path) -> Path:
    """Replace without atomic exchange: move the old folder aside, and back if the second rename fails."""
    old = leftovers.aside_path(target, new)
    target.rename(old)
    try:
        new.rename(target)
    except OSError:
        old.rename(target)
        raise
    return old


def _exchange(first: Path, second: Path) -> bool:
    """Atomically exchange two paths (Linux's renameat2); False if unavailable."""
    if not sys.platform.startswith("linux"):
        return False
    at_cwd, rename_exchange = -100, 2
    with suppress(AttributeError, OSError):
        renameat2 = ctypes.CDLL(None).renameat2
        done: int = renameat2(at_cwd, os.fsencode(first), at_cwd, os.fsencode(second), rename_exchange)
        return done == 0
    return False


def settle(place: Path, partial: Path | None = None) -> None:
    """Finish or undo the replacement of `place` by a process that was killed during it.

    The user's files move to the new folder. A new folder that was complete but not in place becomes `partial`, to
    resume.
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


def _check_names(folder: Path, is_taken: Callable[[str], bool]) -> None:
    """Raise OutputError if a user's file has a name that caan needs."""
    for other in entries_of(folder).others if folder.exists() else ():
        if is_taken(other):
            raise OutputError(f"{folder / other} was not written by caan, but caan needs its name; move it away")


def _warn_of(old: Path, kept: list[str]) -> None:
    warnings.warn(
        f"{old} holds {', '.join(kept[:_MOST_NAMED]) or 'files'}, which caan did not write and could not move; move"
        " them yourself",
        CaanWarning,
        stacklevel=4,
    )
