"""A gallery: the encoded states of many images or captions, in memory or memory-mapped from a folder.

States of all items lie one after the other without padding, rows (regions or words) × state columns, with an
offsets array that says where each item begins. On disk:

    GALLERY/gallery.json   format version, kind, the encoder it was made with, number of items
    GALLERY/states.npy     (rows, S) float32, or float16 as FP16 and INT8 graphs give
    GALLERY/offsets.npy    (items + 1,) int64
    GALLERY/ids.json       optional: one name per item
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._files import reserve
from ..errors import BundleError, DataError

FORMAT, VERSION = "caan-gallery", 1
DESCRIPTION, STATES, OFFSETS, IDS = "gallery.json", "states.npy", "offsets.npy", "ids.json"

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Gallery:
    """Encoded items, ready to be scored.

    states (rows, S) float32 or float16, read-only: a backend may keep a copy on its device; item i is rows
    offsets[i]:offsets[i + 1]; offsets (items + 1,) int64; `encoder` is the hash of the graph or checkpoint that made
    them, so that another model's states are refused.
    """

    kind: Kind
    encoder: str
    states: NDArray[np.floating]
    offsets: NDArray[np.int64]
    ids: list[str] | None = None
    bundle: str | None = None  # where the bundle was when the gallery was written, relative to the gallery

    def __post_init__(self) -> None:
        states = self.states.view()
        states.flags.writeable = False
        object.__setattr__(self, "states", states)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Regions or words of each item, (items,) int64."""
        return np.diff(self.offsets)

    def gather(self, items: NDArray[np.int64]) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """States of some items padded with zeros to the longest, (n, L, S), and their lengths (n,)."""
        starts, ends = self.offsets[items], self.offsets[items + 1]
        lengths = ends - starts
        longest, width = int(lengths.max()), self.states.shape[1]
        # A run of equally long neighbours, as in every fixed-size gallery, is a view: nothing is copied.
        if (lengths == longest).all() and (starts[1:] == ends[:-1]).all():
            return self.states[starts[0] : ends[-1]].reshape(len(items), longest, width), lengths
        padded = np.zeros((len(items), longest, width), self.states.dtype)
        for row, start, end in zip(padded, starts, ends, strict=True):
            row[: end - start] = self.states[start:end]
        return padded, lengths

    def save(self, folder: Path) -> None:
        """Write everything but the states, which `new_states` wrote, into an existing folder."""
        np.save(folder / OFFSETS, self.offsets)
        if self.ids is not None:
            (folder / IDS).write_text(json.dumps(self.ids, ensure_ascii=False), encoding="utf-8")
        description = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "encoder": self.encoder,
            "items": len(self),
            "bundle": self.bundle,
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> Gallery:
        """Memory-map a gallery. Raises BundleError, naming the file, for one that is missing, damaged or newer."""
        description = _read_description(folder)
        states, offsets = _read_array(folder / STATES, 2), _read_array(folder / OFFSETS, 1)
        typed = states.dtype in (np.float32, np.float16) and offsets.dtype == np.int64
        if not typed or len(offsets) != description["items"] + 1:
            raise BundleError(f"{folder} is damaged: its arrays don't fit its {DESCRIPTION}; run caan index again")
        if offsets[0] != 0 or offsets[-1] != len(states) or (np.diff(offsets) < 1).any():
            raise BundleError(f"{folder / OFFSETS} is damaged: it does not fit {STATES}; run caan index again")
        ids = None
        if (folder / IDS).is_file():
            ids = _read_json(folder / IDS)
            if not isinstance(ids, list) or len(ids) != description["items"]:
                raise BundleError(f"{folder / IDS} does not name every item; run caan index again")
        return cls(description["kind"], description["encoder"], states, offsets, ids, description.get("bundle"))


def new_states(rows: int, width: int, dtype: np.dtype[Any], folder: Path | None) -> NDArray[np.floating]:
    """An empty (rows, width) array, in memory or as `folder/states.npy`."""
    if folder is None:
        return np.empty((rows, width), dtype)
    states = np.lib.format.open_memmap(folder / STATES, mode="w+", dtype=dtype, shape=(rows, width))
    reserve(folder / STATES)
    return states


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """lengths (items,) → offsets (items + 1,)."""
    if len(lengths) == 0:
        raise DataError("nothing to encode: there is no item")
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BundleError(f"{folder} is no gallery: it has no {DESCRIPTION}; make one with: caan index BUNDLE FEATURES")
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path} does not describe a {FORMAT}; make one with: caan index BUNDLE FEATURES")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise BundleError(
            f"{path} has format version {version}, this caan reads up to {VERSION};"
            " update with: pip install -U caan-deploy"
        )
    kinds: dict[str, type | tuple[type, ...]] = {"kind": str, "encoder": str, "items": int, "bundle": (str, NoneType)}
    typed = all(isinstance(content.get(key), kind) for key, kind in kinds.items())
    if not typed or content["kind"] not in ("image", "text"):
        raise BundleError(f"{path} is incomplete; run caan index again")
    return content


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} can't be read as JSON ({error}); run caan index again") from error


def _read_array(path: Path, dimensions: int) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header makes numpy raise nearly any type
        raise BundleError(f"{path} is missing or damaged ({error}); run caan index again") from error
    if not isinstance(array, np.ndarray) or array.ndim != dimensions:
        raise BundleError(f"{path} is damaged: expected {dimensions} dimensions; run caan index again")
    return array
