"""A gallery: the encoded states of many images or captions, in memory or memory-mapped from a folder.

States of all items are stored contiguously without padding, rows (regions or words) × state columns; an offsets
array holds where each item begins. `folder.py` describes the folder, `writer.py` writes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from ...errors import BundleError, InputError
from ..lists import Caption, described, listed_ids
from . import folder as gallery_folder
from .changes import compact_items, delete_items, save_items
from .description import Accuracy, Description, Kind, matrices_of
from .in_memory import Origin, relative_to
from .rows import SMALL_DTYPES, Dtype, columns_of, dtype_of
from .sketches_file import Sketches
from .states_file import States, Storage, check_storage

Items = NDArray[np.floating] | Sequence[Caption]  # features (N, R, F), or captions
_log = logging.getLogger(__name__)


class Writer(Protocol):
    """The part of a Retriever that `Gallery.create` and `Gallery.append` need."""

    def write_gallery(
        self,
        folder: str | Path,
        items: Items,
        *,
        ids: Sequence[str] | None,
        lengths: NDArray[np.integer] | Sequence[int] | None,
        dtype: Dtype | None = None,
        compact: bool = False,
        append: bool = False,
        overwrite: bool = False,
        progress: bool,
    ) -> Gallery: ...


@dataclass(frozen=True)
class Gallery:
    """Encoded items, ready for scoring.

    states (rows, S) float32 or float16, or as uint16 or uint8 if stored as bfloat16 or int8 (`dtype`); read-only, since
    a backend may cache a copy on its device. Item i is rows offsets[i]:offsets[i + 1]; offsets (items + 1,) int64;
    encoder: hash of the graph or checkpoint that made the states, so that another model refuses them. A deleted item
    keeps its index and is never returned.

    A Gallery is immutable: `append`, `delete`, `compact_storage` and `reload` return a new one, while running searches
    finish in the old one. It can be pickled: opened from a folder, as that folder; made in memory, with its states. A
    forked process may use its parent's.
    """

    kind: Kind
    encoder: str
    states: NDArray[Any]
    offsets: NDArray[np.int64]
    ids: list[str] | None = None
    bundle: str | None = None  # path of the bundle: relative to the gallery's folder, absolute without one
    compact: bool = False  # states are V alone, (rows, D); the other columns are recomputed per query
    deleted: NDArray[np.bool_] | None = None  # (items,)
    check: Callable[[int, int], None] | None = None  # raises BundleError if these rows differ from what was written
    origin: Origin | None = None  # None: made in memory
    sketches: Sketches | None = None
    chosen: NDArray[np.int64] | None = None  # increasing indices: the only items of a view (`narrowed`)

    def __post_init__(self) -> None:
        states = self.states.view()
        states.flags.writeable = False
        object.__setattr__(self, "states", states)

    def __repr__(self) -> str:
        items = f"{len(self.live):,} {self.kind}s" + (f" of {len(self):,}" if self.deleted is not None else "")
        return f"<Gallery of {items}, {self.dtype}{', compact' if self.compact else ''}>"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def dtype(self) -> Dtype:
        """How the states are stored: float16, float32, bfloat16 or int8."""
        return dtype_of(self.states)

    @property
    def columns(self) -> int:
        """S, the numbers in each row of states."""
        return columns_of(self.states, matrices_of(self.kind, compact=self.compact))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Regions or words of each item, (items,) int64."""
        return np.diff(self.offsets)

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Indices of the items that are not deleted, in increasing order; of a view, those in it."""
        if self.chosen is not None:
            return self.chosen
        return gallery_folder.live_items(len(self), self.deleted)

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.check, States):
            opened = self.check
            seal = gallery_folder.seal_of_items(opened.description, len(self))
            before = opened.description.deleted
            return _open_again, (opened.folder, opened.storage, len(self), self.deleted, seal, before)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["states"] = np.asarray(self.states)  # a memory map's content
        return _made_of, (values,)

    def lengths_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Regions or words of some items, (n,) int64."""
        lengths: NDArray[np.int64] = self.offsets[items + 1] - self.offsets[items]
        return lengths

    def narrowed(self, items: NDArray[np.int64]) -> Gallery:
        """A view of the live items with these increasing indices; nothing is copied and indices stay."""
        return replace(self, chosen=items)

    def first(self, number: int) -> Gallery:
        """A view up to the `number`-th live item, with any deleted items before it; nothing is read or copied."""
        live = self.live[:number]
        return self._cut(int(live[-1]) + 1 if len(live) else 0)

    def _cut(self, items: int) -> Gallery:
        return replace(
            self,
            states=self.states[: self.offsets[items]],
            offsets=self.offsets[: items + 1],
            ids=None if self.ids is None else self.ids[:items],
            deleted=None if self.deleted is None else self.deleted[:items],
        )

    def rows(self, items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where items are in `states`: their first rows (n,) and lengths (n,).

        Raises BundleError if the file no longer holds what was written.
        """
        starts, ends = self.offsets[items], self.offsets[items + 1]
        if isinstance(self.check, States):
            self.check.check_items(starts)
        elif self.check is not None:
            self.check(int(starts.min()), int(ends.max()))
        return starts, ends - starts

    def gather(self, items: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """States of some items as stored, zero-padded to the longest (n, L, …), and their lengths (n,).

        Raises BundleError if the file no longer holds what was written.
        """
        starts, lengths = self.rows(items)
        longest, width = int(lengths.max()), self.states.shape[1]
        if (np.diff(items) == 1).all() and (lengths == longest).all():
            # Adjacent items of equal length, as in every fixed-size gallery: a view, without copying.
            return self.states[starts[0] : starts[-1] + longest].reshape(len(items), longest, width), lengths
        padded = np.zeros((len(items), longest, width), self.states.dtype)
        for row, start, length in zip(padded, starts, lengths, strict=True):
            row[:length] = self.states[start : start + length]
        return padded, lengths

    def confirm(self) -> None:
        """Call after using states: raises BundleError if their file changed meanwhile."""
        if isinstance(self.check, States):
            self.check.confirm()

    @classmethod
    def open(cls, folder: str | Path, storage: Storage = "mapped") -> Gallery:
        """Open a gallery written by `caan index`, `create` or `save`.

        storage: "mapped" reads states from the file whenever they are used; "memory" reads all of them now, so that
        later changes to the file have no effect. Use "memory" for storage others write to: truncating a mapped file
        may kill the process. Small files are checked against their hashes now; mapped states block by block on first
        use, and again if the file is changed in place.
        Raises BundleError, naming the file, if one is missing, damaged, swapped or of a newer version.
        """
        check_storage(storage)
        contents = gallery_folder.read(Path(folder), storage)
        d, states = contents.description, contents.states
        origin = Origin(states.folder, storage, d)
        _log.info("opened %s: %d %ss, %s, %s", folder, len(contents.live), d.kind, d.dtype, storage)
        return cls(
            kind=d.kind,
            encoder=d.encoder,
            states=states.rows,
            offsets=contents.offsets,
            ids=contents.ids,
            bundle=d.bundle,
            compact=d.compact,
            deleted=contents.deleted,
            check=states,
            origin=origin,
            sketches=contents.sketches,
        )

    @classmethod
    def create(
        cls,
        folder: str | Path,
        retriever: Writer,
        items: Items,
        *,
        ids: Sequence[str] | None = None,
        lengths: NDArray[np.integer] | Sequence[int] | None = None,
        dtype: Dtype | None = None,
        compact: bool = False,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Gallery:
        """Encode images or captions into a gallery on disk, as `caan index` does, and open it.

        items: features (N, R, F) float, may be memory-mapped, or captions; ids (N,) unique names; lengths (N,)
        int, regions of each image (all R by default); dtype: float16 (default), float32, bfloat16, or int8 with a scale
        per row and matrix; compact: store a fifth of an image's states and recompute the rest per query. At most one
        block is in memory at a time. Written to `folder.partial` and moved into place; if interrupted, the same call
        resumes.
        Raises DataError as `Retriever.encode_images` and `encode_captions` and for duplicate ids, InputError for
        conflicting options, OutputError if the folder exists (see `overwrite`) or can't be written.
        """
        _check_writes(retriever, "Gallery.create(folder, retriever, items)")
        return retriever.write_gallery(
            folder,
            items,
            ids=ids,
            lengths=lengths,
            dtype=dtype,
            compact=compact,
            overwrite=overwrite,
            progress=progress,
        )

    def append(
        self,
        retriever: Writer,
        items: Items,
        *,
        ids: Sequence[str] | None = None,
        lengths: NDArray[np.integer] | Sequence[int] | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Encode items and append them to the gallery on disk; returns the new gallery.

        items, ids, lengths: as for `create`; dtype and compactness are the gallery's. Readers see the whole append or
        nothing. Raises as `create`, InputError for a gallery in memory, DataError if ids are missing or taken,
        BundleError for another model's gallery, OutputError while another process writes it.
        """
        _check_writes(retriever, "gallery.append(retriever, items)")
        folder = self._origin("append to").folder
        return retriever.write_gallery(folder, items, ids=ids, lengths=lengths, append=True, progress=progress)

    def delete(self, ids: Iterable[str | int]) -> Gallery:
        """Delete items on disk, by id as in `Hit.id` or by index (int); returns the new gallery.

        The others keep their index; `compact_storage` frees the space. If an item does not exist, raises DataError,
        naming it, and deletes nothing. InputError for a gallery in memory; OutputError while another process writes
        the gallery, or if one has replaced it since it was opened.
        """
        origin = self._origin("delete from")
        delete_items(origin.folder, listed_ids(ids), opened=origin.description)
        return self.reload()

    def compact_storage(self) -> Gallery:
        """Free the disk space of deleted items; returns the new gallery.

        Ids stay; items are renumbered without gaps. Raises DataError if every item is deleted, InputError for a
        gallery in memory, OutputError if another process changes the gallery meanwhile.
        """
        compact_items(self._origin("compact").folder)
        return self.reload()

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Gallery:
        """Write the gallery to a folder, with the same states and indices, and open it from there.

        Raises OutputError if the folder exists (see `overwrite`) or can't be written.
        """
        target, bundle = Path(folder), self.bundle
        if bundle is not None:
            place = Path(bundle) if self.origin is None else self.origin.folder / bundle
            bundle = relative_to(Path(os.path.normpath(place)), target.resolve())
        accuracy = None
        if self.dtype in SMALL_DTYPES:
            accuracy = Accuracy("ungated") if self.origin is None else self.origin.description.accuracy
        base = Description(self.kind, self.encoder, self.dtype, self.columns, self.compact, bundle, accuracy=accuracy)
        check = self.check if isinstance(self.check, States) else None
        save_items(
            target, base, self.states, self.offsets, self.ids, self.deleted, check, self.sketches, overwrite=overwrite
        )
        return Gallery.open(target)

    def reload(self) -> Gallery:
        """The current gallery in the same folder. Raises InputError for one made in memory, and as `open`."""
        origin = self._origin("reload")
        return Gallery.open(origin.folder, origin.storage)

    @property
    def is_current(self) -> bool:
        """Whether the folder still holds this gallery: False once changed, replaced or removed.

        Reads the folder's description, not the states. A gallery made in memory is always current.
        """
        if self.origin is None:
            return True
        d = self.origin.description
        try:
            return len(self) == d.items and gallery_folder.read_description(self.origin.folder) == d
        except BundleError:
            return False

    def id_of(self, index: int) -> str:
        """An item's id; in a gallery without ids, its index as text."""
        return str(index) if self.ids is None else self.ids[index]

    def select(self, ids: Iterable[str | int] | None = None, exclude: Iterable[str | int] | None = None) -> Gallery:
        """A view limited to `ids`, or to all items, without those in `exclude`.

        Ids as in `Hit.id`, or indices (int); unknown ones are ignored. Nothing is copied and indices stay: other items
        count as deleted in the view. A search's `ids` and `exclude` do the same for one call.
        Raises InputError unless they are lists or sets of ids.
        """
        if ids is None and exclude is None:
            return self
        selected = np.zeros(len(self), np.bool_)
        selected[self.live if ids is None else self._indices(ids, "ids")] = True
        if exclude is not None:
            selected[self._indices(exclude, "exclude")] = False
        return replace(self, deleted=~selected)

    def _indices(self, ids: Iterable[str | int], what: str) -> list[int]:
        """Indices of the live items with these ids, in no particular order."""
        positions = self._positions
        return [positions[item] for item in listed_ids(ids, what) if item in positions]

    @cached_property
    def _positions(self) -> dict[str | int, int]:
        """Index of each live item, by its id and by its index."""
        live = self.live.tolist()
        positions: dict[str | int, int] = {self.id_of(index): index for index in live}
        positions.update((index, index) for index in live)
        return positions

    def _origin(self, what: str) -> Origin:
        if self.origin is None:
            raise InputError(f"this gallery exists only in memory, with no folder to {what}; call save(folder) first")
        return self.origin


def _check_writes(retriever: object, call: str) -> None:
    """Raise InputError unless it is a Retriever."""
    if not hasattr(retriever, "write_gallery"):
        raise InputError(f"a gallery is written by a Retriever, not by {described(retriever)}; write {call}")


def _open_again(
    folder: Path,
    storage: Storage,
    items: int,
    deleted: NDArray[np.bool_] | None,
    seal: str,
    before: tuple[tuple[int, int], ...],
) -> Gallery:
    """Unpickle: the gallery another process had opened, limited to its items; the folder may hold more by now."""
    gallery = Gallery.open(folder, storage)
    assert isinstance(gallery.check, States)
    if len(gallery) < items or gallery_folder.seal_of_items(gallery.check.description, items) != seal:
        raise BundleError(
            f"{folder} was replaced since the process that sent this gallery opened it; open it there again"
        )
    assert gallery.origin is not None
    origin = replace(gallery.origin, description=structs.replace(gallery.origin.description, deleted=before))
    return replace(gallery._cut(items), deleted=deleted, origin=origin)


def _made_of(values: dict[str, Any]) -> Gallery:
    return Gallery(**values)
