"""Changing a gallery's folder without encoding: save one, delete items, give back the room of deleted ones."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..._files import Outdated, atomic_folder, explained, locked, settle
from ...errors import CaanWarning, DataError
from .description import Description, Part
from .folder import DESCRIPTION, read, read_description, without, write_description
from .regular import check_regular
from .states_file import States
from .writer import JOURNAL, GalleryWriter, Input, changed_meanwhile, publishing

_BLOCK_ITEMS = 128  # as many as `caan index` puts into a block of images
_log = logging.getLogger(__name__)


def save_items(
    target: Path,
    base: Description,
    states: NDArray[np.floating],
    offsets: NDArray[np.int64],
    ids: Sequence[str] | None,
    deleted: NDArray[np.bool_] | None,
    check: States | None,
    *,
    overwrite: bool,
) -> None:
    """Write a gallery that is in memory, or elsewhere, to the folder `target`; indices stay.

    base: the description of a gallery without items; states (rows, S), offsets (items + 1,), deleted (items,); check:
    the file that the states are mapped from. Raises OutputError if the target exists or can't be written, BundleError
    if that file was changed.
    """
    with atomic_folder(target, overwrite=overwrite, kind="gallery") as folder:
        _write(folder, base, states, offsets, np.arange(len(offsets) - 1), ids, check)
        if deleted is not None and deleted.any():
            write_description(folder, without(read_description(folder), np.flatnonzero(deleted)))
    _log.info("%s: saved %d %ss", target, len(offsets) - 1, base.kind)


def delete_items(folder: Path, items: Sequence[str | int], *, opened: Description | None = None) -> int:
    """Delete items of a gallery by id, by index where it has no ids, or by an int; returns how many are left.

    The others keep their index. `compact_items` gives back the room on disk. opened: what the caller knows the gallery
    as; if its items are not the first ones any more, an index means another item now.
    Raises DataError, naming it, for an item that is not there or deleted already; OutputError if another process is
    writing the gallery or has replaced it; BundleError as `Gallery.open`.
    """
    with changing(folder) as (_, alone):
        found = read(folder)
        if opened is not None and found.description.blocks[: len(opened.blocks)] != opened.blocks:
            raise changed_meanwhile(folder)
        live = found.live.tolist()
        position: dict[str | int, int] = {str(n) if found.ids is None else found.ids[n]: n for n in live}
        position.update((n, n) for n in live)
        for item in items:
            if item not in position:
                what = "item" if found.ids is not None and isinstance(item, str) else "index"
                raise DataError(
                    f"{folder} has no {what} '{str(item)[:80]}', or it is deleted already; nothing was deleted"
                )
        gone = np.array(sorted({position[item] for item in items}), np.int64)
        check_regular(folder / DESCRIPTION)
        with publishing(folder, found.description, alone=alone):
            write_description(folder, without(found.description, gone))
    _log.info("%s: deleted %d items, %d are left", folder, len(gone), len(live) - len(gone))
    return len(live) - len(gone)


def compact_items(folder: Path) -> int:
    """Write a gallery anew without its deleted items; returns the bytes of states that are given back.

    Ids stay, but items get new indices, without gaps. Readers see the old gallery or the new one. Raises DataError if
    every item is deleted, OutputError if another process changes the gallery meanwhile, BundleError as `Gallery.open`.
    """
    with locked(folder, wait=False):  # refused at once while another process appends, not after the work
        found = read(folder)
        settle(folder.resolve())  # a compaction that was killed may have left the old files, and nothing to do
    if found.deleted is None:
        return 0
    items = found.live
    if len(items) == 0:
        raise DataError(f"every item of {folder} is deleted, so nothing would be left; remove the folder, or append")
    if (folder / JOURNAL).exists():
        message = f"an interrupted append to {folder} is given up; append those items again"
        warnings.warn(message, CaanWarning, stacklevel=3)
    d = found.description
    ids = None if found.ids is None else [found.ids[n] for n in items.tolist()]
    base = replace(d, blocks=(), lengths=Part(0, ""), ids=None, deleted=())

    def unchanged() -> bool:
        return read_description(folder) == d

    try:
        with atomic_folder(folder, overwrite=True, kind="gallery", unchanged=unchanged, keep_others=True) as new:
            _write(new, base, found.states.rows, found.offsets, items, ids, found.states)
    except Outdated as error:
        raise changed_meanwhile(folder) from error
    freed = (d.rows - int(np.diff(found.offsets)[items].sum())) * d.row_bytes
    _log.info("%s: compacted to %d items, %d bytes given back", folder, len(items), freed)
    return freed


@contextmanager
def changing(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Change a gallery where it is; whether a lock keeps others from doing so meanwhile."""
    with explained(folder, resumable=True), locked(folder, wait=False) as alone:
        try:
            yield folder, alone
        except FileNotFoundError as error:
            if alone:
                raise
            raise changed_meanwhile(folder) from error  # replaced, with what was being written in it


def _write(
    folder: Path,
    base: Description,
    states: NDArray[np.floating],
    offsets: NDArray[np.int64],
    items: NDArray[np.int64],
    ids: Sequence[str] | None,
    check: States | None,
) -> None:
    """Fill an empty folder with these items."""
    with GalleryWriter(folder, base) as writer:
        for start in range(0, len(items), _BLOCK_ITEMS):
            some = items[start : start + _BLOCK_ITEMS]
            firsts, ends = offsets[some], offsets[some + 1]
            if check is not None:
                check(int(firsts[0]), int(ends[-1]))
            rows = np.concatenate([states[first:end] for first, end in zip(firsts, ends, strict=True)])
            # The features or captions are not at hand; nothing resumes from this block.
            writer.add(rows, Input(len(some), len(rows), zlib.crc32(rows.data)))
        if check is not None:
            check.confirm()
        writer.publish(np.diff(offsets)[items], ids)
