"""Changes to a gallery's folder that need no encoding: save, delete items, compact."""

from __future__ import annotations

import hashlib
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from ..._files import Outdated, atomic_file, atomic_folder, explained, locked, settle
from ...errors import CaanWarning, DataError
from .description import Curve, Description, Part, SketchRecord
from .folder import DESCRIPTION, SKETCHES, read, read_description, without, write_description
from .regular import check_regular
from .sketches_file import Sketches
from .states_file import States
from .writer import JOURNAL, GalleryWriter, Input, changed_meanwhile, publishing

_BLOCK_ITEMS = 128  # as `caan index` uses for images
_log = logging.getLogger(__name__)


def save_items(
    target: Path,
    base: Description,
    states: NDArray[Any],
    offsets: NDArray[np.int64],
    ids: Sequence[str] | None,
    deleted: NDArray[np.bool_] | None,
    check: States | None,
    sketches: Sketches | None,
    *,
    overwrite: bool,
) -> None:
    """Write a gallery from memory or another folder to the folder `target`; indices stay.

    base: the description without items; states as stored, offsets (items + 1,), deleted (items,); check: the file the
    states are mapped from. Raises OutputError if the target exists or can't be written, BundleError if that file was
    changed.
    """
    with atomic_folder(target, overwrite=overwrite, kind="gallery") as folder:
        _write(folder, base, states, offsets, np.arange(len(offsets) - 1), ids, check, sketches)
        if deleted is not None and deleted.any():
            write_description(folder, without(read_description(folder), np.flatnonzero(deleted)))
    _log.info("%s: saved %d %ss", target, len(offsets) - 1, base.kind)


def delete_items(folder: Path, items: Sequence[str | int], *, opened: Description | None = None) -> int:
    """Delete items by id, by index as text in a gallery without ids, or by index (int); returns how many remain.

    The others keep their index. `compact_items` frees the disk space. opened: the description the caller's indices
    refer to; the gallery must still begin with its blocks.
    Raises DataError, naming it, for an item that does not exist or is deleted already; OutputError if another process
    is writing the gallery or has replaced it; BundleError as `Gallery.open`.
    """
    with changing(folder) as (_, alone):
        contents = read(folder)
        if opened is not None and contents.description.blocks[: len(opened.blocks)] != opened.blocks:
            raise changed_meanwhile(folder)
        live = contents.live.tolist()
        position: dict[str | int, int] = {str(n) if contents.ids is None else contents.ids[n]: n for n in live}
        position.update((n, n) for n in live)
        for item in items:
            if item not in position:
                what = "item" if contents.ids is not None and isinstance(item, str) else "index"
                raise DataError(
                    f"{folder} has no {what} '{str(item)[:80]}', or it is deleted already; nothing was deleted"
                )
        deleted = np.array(sorted({position[item] for item in items}), np.int64)
        check_regular(folder / DESCRIPTION)
        with publishing(folder, contents.description, alone=alone):
            write_description(folder, without(contents.description, deleted))
    _log.info("%s: deleted %d items, %d are left", folder, len(deleted), len(live) - len(deleted))
    return len(live) - len(deleted)


def compact_items(folder: Path) -> int:
    """Rewrite a gallery without its deleted items; returns the bytes of states freed.

    Ids stay, but items are renumbered without gaps. Readers see either the old gallery or the new one. Raises DataError
    if every item is deleted, OutputError if another process changes the gallery meanwhile, BundleError as
    `Gallery.open`.
    """
    with locked(folder, wait=False):  # if another process is appending, fail now, not after the work
        contents = read(folder)
        settle(folder.resolve())  # clean up after a killed compaction, even if nothing is left to compact
    if contents.deleted is None:
        return 0
    items = contents.live
    if len(items) == 0:
        raise DataError(f"every item of {folder} is deleted, so nothing would be left; remove the folder, or append")
    if (folder / JOURNAL).exists():
        message = f"an interrupted append to {folder} is discarded; append those items again"
        warnings.warn(message, CaanWarning, stacklevel=3)
    d = contents.description
    ids = None if contents.ids is None else [contents.ids[n] for n in items.tolist()]
    base = replace(d, blocks=(), lengths=Part(0, ""), ids=None, deleted=())  # the live items, and their curve, stay

    def unchanged() -> bool:
        return read_description(folder) == d

    try:
        with atomic_folder(folder, overwrite=True, kind="gallery", unchanged=unchanged, keep_others=True) as new:
            _write(new, base, contents.states.rows, contents.offsets, items, ids, contents.states, contents.sketches)
    except Outdated as error:
        raise changed_meanwhile(folder) from error
    freed = (d.rows - int(np.diff(contents.offsets)[items].sum())) * d.row_bytes
    _log.info("%s: compacted to %d items, %d bytes freed", folder, len(items), freed)
    return freed


def write_sketches(folder: Path, opened: Description, record: SketchRecord, rows: NDArray[np.int8]) -> None:
    """Give a gallery sketches, or others than it has; its curve is dropped.

    opened: the description when the sketches (items, columns) were made. Raises OutputError if the gallery has changed
    since or can't be written. Killed in between, it is left without sketches, or with the old ones.
    """
    with changing(folder) as (_, alone):
        check_regular(folder / SKETCHES)
        bare = replace(opened, sketch=None, curve=None, blocks=tuple(replace(b, sketches=None) for b in opened.blocks))
        ends = np.cumsum([block.items for block in opened.blocks])
        blocks = tuple(
            replace(block, sketches=hashlib.sha256(rows[end - block.items : end].data).hexdigest())
            for block, end in zip(opened.blocks, ends.tolist(), strict=True)
        )
        with atomic_file(folder / SKETCHES) as temporary:
            temporary.write_bytes(rows.data)
            with publishing(folder, opened, alone=alone):
                write_description(folder, bare)  # the file that follows is not the old description's
        with publishing(folder, bare, alone=alone):
            write_description(folder, replace(bare, sketch=record, blocks=blocks))
    _log.info("%s: sketched %d items", folder, len(rows))


def write_curve(folder: Path, opened: Description, curve: Curve) -> None:
    """Record a gallery's measured recall. Raises OutputError if the gallery has changed since, or can't be written."""
    with changing(folder) as (_, alone):
        check_regular(folder / DESCRIPTION)
        with publishing(folder, opened, alone=alone):
            write_description(folder, replace(opened, curve=curve))


@contextmanager
def changing(folder: Path) -> Iterator[tuple[Path, bool]]:
    """For changing a gallery in place: yields its folder and whether a lock keeps other writers out."""
    with explained(folder, resumable=True), locked(folder, wait=False) as alone:
        try:
            yield folder, alone
        except FileNotFoundError as error:
            if alone:
                raise
            raise changed_meanwhile(folder) from error  # the folder was replaced, with our unfinished files in it


def _write(
    folder: Path,
    base: Description,
    states: NDArray[Any],
    offsets: NDArray[np.int64],
    items: NDArray[np.int64],
    ids: Sequence[str] | None,
    check: States | None,
    sketches: Sketches | None,
) -> None:
    """Fill an empty folder with these items."""
    if sketches is not None:
        base = replace(base, sketch=SketchRecord(sketches.model, sketches.columns), curve=sketches.curve)
    sketched = None if sketches is None else sketches.read()
    with GalleryWriter(folder, base) as writer:
        for start in range(0, len(items), _BLOCK_ITEMS):
            block = items[start : start + _BLOCK_ITEMS]
            firsts, ends = offsets[block], offsets[block + 1]
            if check is not None:
                check(int(firsts[0]), int(ends[-1]))
            rows = np.concatenate([states[first:end] for first, end in zip(firsts, ends, strict=True)])
            # The original features or captions are not available; nothing resumes from this block.
            made_from = Input(len(block), len(rows), zlib.crc32(rows.data))
            writer.add(rows, made_from, None if sketched is None else sketched[block])
        if check is not None:
            check.confirm()
        writer.publish(np.diff(offsets)[items], ids)
