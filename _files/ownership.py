"""Distinguishing caan's entries in a bundle or gallery from the user's, which are never replaced or removed.

A bundle's manifest lists its files; a gallery's files have fixed names. All other entries are the user's.
"""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from stat import S_IFMT, S_IMODE, S_ISLNK
from typing import NamedTuple

from .reading import read_regular

_OUR_FORMAT = re.compile(rb'"format":\s*"caan-(bundle|gallery)"')
_DESCRIPTIONS = ("manifest.json", "gallery.json")
_PARTS = {
    "states.bin", "states.new.bin", "lengths.bin", "ids.jsonl", "journal.jsonl", "sketches.bin", "sketches.new.bin",
}  # fmt: skip
_GALLERY = {"gallery.json", *_PARTS, *(f"{name}.tmp" for name in _PARTS)}
_FIRST_GALLERY = {"gallery.json", "states.npy", "offsets.npy", "ids.json"}  # of format version 1
# Left by killed writers: a description, and the folder of an append.
_UNFINISHED = re.compile(r"\.gallery\.json\..*\.tmp|\.append-[^/]*\.tmp(/.*)?", re.DOTALL)
# Folders of a bundle that may be empty, or hold only files that the manifest no longer lists.
_BUNDLE_FOLDERS = re.compile(r"onnx|sketch|engines(/[^/]+)?")


class Entries(NamedTuple):
    """A folder's entries, as relative paths with `/`."""

    files: list[str]  # written by caan
    folders: list[str]  # with such files, inner ones first
    others: list[str]  # the user's; a folder stands for its contents


def kind_of(folder: Path) -> str | None:
    """The kind of a folder, "bundle" or "gallery", even if it is damaged; None for other folders."""
    for path in (folder / name for name in _DESCRIPTIONS):
        if path.is_file() and (match := _OUR_FORMAT.search(path.read_bytes())):
            return match[1].decode()
    return None


def entries_of(folder: Path) -> Entries:
    """Separate caan's entries from the user's. Raises OSError for an unreadable folder."""
    kind = kind_of(folder)
    return _sorted(folder, kind, _written(folder, kind), "")


def remove_ours(folder: Path) -> bool:
    """Remove caan's files (links, not their destinations), and the folder if empty. Returns whether it is gone."""
    entries = entries_of(folder)
    # The description last: if this process is killed, the next one still needs it to find caan's files.
    for name in sorted(entries.files, key=lambda name: name in _DESCRIPTIONS):
        with suppress(OSError):
            (folder / name).unlink()
    for name in [*entries.folders, ""]:
        with suppress(OSError):
            (folder / name).rmdir()
    return not os.path.lexists(folder)


def carry_over(old: Path, new: Path) -> list[str]:
    """Move the user's entries from a replaced folder to its replacement. Returns the names that could not be moved.

    A name that exists in both stays in the old one. On OSError nothing is moved.
    """
    moved, kept = [], []
    try:
        for name in entries_of(old).others:
            if os.path.lexists(new / name):
                kept.append(name)
                continue
            _make_parents(old, new, name)
            os.rename(old / name, new / name)  # noqa: PTH104  (tests count Path.rename's calls)
            moved.append(name)
    except OSError:
        for name in moved:
            os.rename(new / name, old / name)  # noqa: PTH104
        raise
    return kept


def keep_attributes(old: Path, new: Path) -> None:
    """Copy owner, mode, ACL and user attributes of a file or folder to its replacement, as far as permitted."""
    before, now = old.lstat(), new.lstat()
    if S_IFMT(before.st_mode) != S_IFMT(now.st_mode) or S_ISLNK(now.st_mode) or os.path.samestat(before, now):
        return
    if hasattr(os, "chown"):
        for user, group in ((before.st_uid, -1), (-1, before.st_gid)):
            if user not in (-1, now.st_uid) or group not in (-1, now.st_gid):
                with suppress(PermissionError):
                    os.chown(new, user, group)
    new.chmod(S_IMODE(before.st_mode))
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(old):
                if name.startswith(("user.", "system.posix_acl_")):
                    os.setxattr(new, name, os.getxattr(old, name))


def keep_attributes_of_all(old: Path, new: Path) -> None:
    """As `keep_attributes`, for a folder and its contents. New entries get the folder's owner."""
    keep_attributes(old, new)
    owner = old.lstat()
    for path in new.rglob("*"):
        counterpart = old / path.relative_to(new)
        if os.path.lexists(counterpart):
            keep_attributes(counterpart, path)
        elif hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def mount_points(folder: Path) -> list[Path]:
    """Mount points in a folder, including itself, as far as the system reports them."""
    place = folder.resolve()
    if sys.platform != "linux":
        return [place] if place.is_mount() else []
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return [place] if place.is_mount() else []
    # Spaces, line feeds and backslashes are octal escapes.
    points = [re.sub(rb"\\([0-7]{3})", lambda c: bytes([int(c[1], 8)]), line.split(b" ")[4]) for line in lines]
    return [path for point in points if (path := Path(os.fsdecode(point))).is_relative_to(place)]


def _written(folder: Path, kind: str | None) -> set[str]:
    """The names listed in the folder's description, and its own name."""
    if kind is None:
        return set()
    name = "manifest.json" if kind == "bundle" else "gallery.json"
    try:
        content = json.loads(read_regular(folder / name))
        listed = content["files"] if kind == "bundle" else content.get("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        content, listed = {}, None  # damaged
    if kind == "gallery":
        names = _FIRST_GALLERY if listed == 1 else _GALLERY
        return names - {"ids.jsonl"} if "ids" in content and content["ids"] is None else names
    return {name, *(listed if isinstance(listed, dict) else ())}


def _sorted(folder: Path, kind: str | None, written: set[str], inside: str) -> Entries:
    result = Entries([], [], [])
    with os.scandir(folder) as entries:
        names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    for name, is_folder in names:
        path = inside + name
        if not is_folder:
            ours = path in written or (kind == "gallery" and _UNFINISHED.fullmatch(path) is not None)
            (result.files if ours else result.others).append(path)
        elif any(other.startswith(f"{path}/") for other in written) or (
            (kind == "bundle" and _BUNDLE_FOLDERS.fullmatch(path))
            or (kind == "gallery" and _UNFINISHED.fullmatch(path))
        ):
            for collected, inner in zip(result, _sorted(folder / name, kind, written, f"{path}/"), strict=True):
                collected.extend(inner)
            result.folders.append(path)
        else:
            result.others.append(path)
    return result


def _make_parents(old: Path, new: Path, name: str) -> None:
    """Create the parent folders of a name, with their old modes."""
    for parent in reversed(_parents(name)):
        if not os.path.lexists(new / parent):
            (new / parent).mkdir()
            keep_attributes(old / parent, new / parent)


def _parents(name: str) -> list[str]:
    return [str(parent) for parent in Path(name).parents][:-1]
