"""A gallery: the encoded states of many images or captions, in memory or memory-mapped from a folder.

States of all items lie one after the other without padding, rows (regions or words) × state columns, with an
offsets array that says where each item begins. `folder.py` describes the folder, `writer.py` writes it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._files import explained, reserve
from ...errors import BundleError, DataError
from . import folder as gallery_folder
from .states_file import States, Storage, check_storage

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Gallery:
    """Encoded items, ready to be scored.

    states (rows, S) float32 or float16, read-only: a backend may keep a copy on its device; item i is rows
    offsets[i]:offsets[i + 1]; offsets (items + 1,) int64; `encoder` is the hash of the graph or checkpoint that made
    them, so that another model's states are refused. A deleted item keeps its index and is never found.

    It may be pickled: one that was opened as its folder, which whoever loads the pickle opens again, any other with
    its states. A forked process may go on with its parent's.
    """

    kind: Kind
    encoder: str
    states: NDArray[np.floating]
    offsets: NDArray[np.int64]
    ids: list[str] | None = None
    bundle: str | None = None  # where the bundle was when the gallery was written, relative to the gallery
    compact: bool = False  # states are V alone, (rows, D); a scorer's other columns are computed again
    deleted: NDArray[np.bool_] | None = None  # (items,)
    check: Callable[[int, int], None] | None = None  # raises BundleError unless these rows are as they were written

    def __post_init__(self) -> None:
        states = self.states.view()
        states.flags.writeable = False
        object.__setattr__(self, "states", states)

    def __repr__(self) -> str:
        items = f"{len(self.live):,} {self.kind}s" + (f" of {len(self):,}" if self.deleted is not None else "")
        return f"<Gallery of {items}, {self.states.dtype}{', compact' if self.compact else ''}>"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Regions or words of each item, (items,) int64."""
        return np.diff(self.offsets)

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Indices of the items that are not deleted, increasing."""
        return gallery_folder.live_items(len(self), self.deleted)

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.check, States):
            opened = self.check
            seal = gallery_folder.seal_of_items(opened.description, len(self))
            return _open_again, (opened.folder, opened.storage, len(self), self.deleted, seal)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["states"] = np.asarray(self.states)  # a memory map's content
        return _made_of, (values,)

    def first(self, number: int) -> Gallery:
        """Its first items that are not deleted, so many at most, and the deleted ones before the last of them.

        A view: nothing is read or copied.
        """
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
        """Where some items lie in `states`: their first rows (n,) and their lengths (n,).

        Raises BundleError if what lies on disk is not what was written.
        """
        starts, ends = self.offsets[items], self.offsets[items + 1]
        if self.check is not None:
            self.check(int(starts.min()), int(ends.max()))
        return starts, ends - starts

    def gather(self, items: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """States of some items padded with zeros to the longest, (n, L, S), and their lengths (n,).

        Raises BundleError if what lies on disk is not what was written.
        """
        starts, lengths = self.rows(items)
        longest, width = int(lengths.max()), self.states.shape[1]
        if (np.diff(items) == 1).all() and (lengths == longest).all():
            # Equally long neighbours, as in every fixed-size gallery: a view, nothing is copied.
            return self.states[starts[0] : starts[-1] + longest].reshape(len(items), longest, width), lengths
        padded = np.zeros((len(items), longest, width), self.states.dtype)
        for row, start, length in zip(padded, starts, lengths, strict=True):
            row[:length] = self.states[start : start + length]
        return padded, lengths

    def confirm(self) -> None:
        """To be called after states were used: raises BundleError if their file was changed meanwhile."""
        if isinstance(self.check, States):
            self.check.confirm()

    @classmethod
    def open(cls, folder: str | Path, storage: Storage = "mapped") -> Gallery:
        """Open a gallery that `caan index` wrote.

        storage: "mapped", states are read from the file whenever they are used; "memory", all of them are read now,
        and whatever happens to the file changes nothing: for storage that others write to, since shortening a mapped
        file may end the process. Small files are compared with their hashes now; mapped states a block at a time, when
        it is first used, and again when the file was changed where it lies.
        Raises BundleError, naming the file, for one that is missing, damaged, swapped or newer.
        """
        check_storage(storage)
        found = gallery_folder.read(Path(folder), storage)
        d, states = found.description, found.states
        return cls(d.kind, d.encoder, states.rows, found.offsets, found.ids, d.bundle, d.compact, found.deleted, states)


def _open_again(folder: Path, storage: Storage, items: int, deleted: NDArray[np.bool_] | None, seal: str) -> Gallery:
    """What another process had opened, or the first items of it; there may be more by now."""
    gallery = Gallery.open(folder, storage)
    assert isinstance(gallery.check, States)
    if len(gallery) < items or gallery_folder.seal_of_items(gallery.check.description, items) != seal:
        raise BundleError(
            f"{folder} was replaced since the process that sent this gallery opened it; open it there again"
        )
    return replace(gallery._cut(items), deleted=deleted)


def _made_of(values: dict[str, Any]) -> Gallery:
    return Gallery(**values)


def new_states(rows: int, width: int, dtype: np.dtype[Any], folder: str | Path | None) -> NDArray[np.floating]:
    """An empty (rows, width) array, in memory or memory-mapped in an existing folder, under a name of its own.

    Raises OutputError if the folder can't be written to.
    """
    if folder is None:
        return np.empty((rows, width), dtype)
    with explained(Path(folder), creating=True):
        # A name of its own: another gallery of the same folder may be mapped.
        handle, name = tempfile.mkstemp(prefix="states-", suffix=".npy", dir=folder)
    os.close(handle)
    states = np.lib.format.open_memmap(name, mode="w+", dtype=dtype, shape=(rows, width))
    reserve(Path(name))
    return states


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """lengths (items,) → offsets (items + 1,)."""
    if len(lengths) == 0:
        raise DataError("nothing to encode: there is no item")
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
