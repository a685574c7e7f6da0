"""A gallery's folder: what is in it, reading and verifying it.

GALLERY/gallery.json   what the states are, the size and SHA-256 of everything, which items are deleted
GALLERY/states.bin     (rows, columns) float16 or float32, little-endian, C order: item after item, no padding
GALLERY/lengths.bin    (items,) int32: rows of each item
GALLERY/ids.jsonl      optional: one JSON string per item, a line each

The last three only ever grow, and count up to where gallery.json says: replacing that one file is what publishes
items. States are hashed in blocks, each compared when it is first used: a gallery opens at once whatever its size.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..._files import atomic_file, read_unmixed
from ..._text import parse_json
from ...errors import BundleError

FORMAT, VERSION = "caan-gallery", 2
DESCRIPTION, STATES, LENGTHS, IDS = "gallery.json", "states.bin", "lengths.bin", "ids.jsonl"
LENGTH = np.dtype("<i4")
KINDS, DTYPES = ("image", "text"), ("float16", "float32")
_AGAIN = "run caan index again"


@dataclass(frozen=True)
class Block:
    """Consecutive items that were encoded and written together."""

    items: int
    rows: int
    sha256: str  # of their states
    crc32: int  # of the input they were made from: a resumed run goes on if it is still the same


@dataclass(frozen=True)
class Part:
    """How far a file counts, and the SHA-256 of that much."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Description:
    """What gallery.json holds."""

    kind: Literal["image", "text"]
    encoder: str
    dtype: Literal["float16", "float32"]
    columns: int
    compact: bool = False
    bundle: str | None = None  # relative to the gallery
    blocks: tuple[Block, ...] = ()
    lengths: Part = Part(0, "")
    ids: Part | None = None
    deleted: tuple[tuple[int, int], ...] = ()  # [first, last + 1) of each run of deleted items

    @property
    def items(self) -> int:
        return sum(block.items for block in self.blocks)

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def row_bytes(self) -> int:
        return self.columns * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Contents:
    """An opened gallery folder; states are memory-mapped and not yet compared with their hashes."""

    description: Description
    states: NDArray[np.floating]  # (rows, columns)
    offsets: NDArray[np.int64]  # (items + 1,)
    ids: list[str] | None
    deleted: NDArray[np.bool_] | None  # (items,)

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Indices of the items that are not deleted, increasing."""
        return live_items(self.description.items, self.deleted)


def live_items(items: int, deleted: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Indices, increasing, of so many items but for those that `deleted` (items,) marks."""
    return np.arange(items) if deleted is None else np.flatnonzero(~deleted)


def read(folder: Path) -> Contents:
    """Open a gallery; another process may replace it or append to it meanwhile.

    Raises BundleError, naming the file, for one that is missing, damaged or newer.
    """
    return read_unmixed(folder / DESCRIPTION, lambda: _read(folder))


def _read(folder: Path) -> Contents:
    description = read_description(folder)
    content = _read_part(folder / LENGTHS, description.lengths)
    lengths = np.frombuffer(content, LENGTH) if len(content) % LENGTH.itemsize == 0 else np.empty(0, LENGTH)
    if len(lengths) != description.items or (lengths < 1).any() or int(lengths.sum()) != description.rows:
        raise BundleError(f"{folder / LENGTHS} does not fit {DESCRIPTION}; {_AGAIN}")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    ids = None if description.ids is None else _read_ids(folder / IDS, description.ids, description.items)
    deleted = None
    if description.deleted:
        deleted = np.zeros(description.items, np.bool_)
        for start, end in description.deleted:
            deleted[start:end] = True
    return Contents(description, _map_states(folder / STATES, description), offsets, ids, deleted)


class BlockCheck:
    """Compares blocks of states with their hashes, each once, when they are first used. Threads may share one."""

    def __init__(self, folder: Path, description: Description, states: NDArray[np.floating]) -> None:
        self._path = folder / STATES
        self._states, self._blocks = states, description.blocks
        self._ends = np.cumsum([block.rows for block in description.blocks])
        self._item_ends = np.cumsum([block.items for block in description.blocks])
        self._good = [False] * len(description.blocks)
        self._all_good = False
        self._lock = Lock()

    def __call__(self, start: int, end: int) -> None:
        """Raises BundleError if rows start:end are not those that were written."""
        if self._all_good:
            return
        first, last = np.searchsorted(self._ends, [start, end - 1], side="right")
        with self._lock:
            for number in range(first, last + 1):
                if not self._good[number]:
                    self._compare(number)
                    self._good[number] = True
            self._all_good = all(self._good)

    def _compare(self, number: int) -> None:
        block, end = self._blocks[number], int(self._ends[number])
        found = hashlib.sha256(self._states[end - block.rows : end].data).hexdigest()
        if found != block.sha256:
            last = int(self._item_ends[number])
            raise BundleError(
                f"{self._path} was changed: the states of items {last - block.items} to {last - 1} are not those that"
                f" were written; {_AGAIN} with --overwrite"
            )


def read_description(folder: Path) -> Description:
    """What a gallery says of itself. Raises BundleError for a gallery.json that is missing, damaged or newer."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BundleError(f"{folder} is no gallery: it has no {DESCRIPTION}; make one with: caan index BUNDLE FEATURES")
    content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path} does not describe a {FORMAT}; make one with: caan index BUNDLE FEATURES")
    version = content.get("version")
    if type(version) is not int or version > VERSION:
        raise BundleError(
            f"{path} has format version {version}, this caan reads {VERSION}; update with: pip install -U caan-deploy"
        )
    if version < VERSION:
        raise BundleError(f"{path} has format version {version}, which an older caan wrote; {_AGAIN}")
    seal = content.pop("sha256", None)
    if seal != _seal(content):
        raise BundleError(f"{path} was changed: its SHA-256 is not the one it holds; {_AGAIN} with --overwrite")
    try:
        return _description(content)
    except (KeyError, TypeError, ValueError) as error:  # sealed, but not by this version of caan
        raise BundleError(f"{path} is no valid description ({error!r}); {_AGAIN} with --overwrite") from error


def write_description(folder: Path, description: Description) -> None:
    """Publish: replace gallery.json. The caller holds the folder's lock. Raises OutputError if it can't be written."""
    content = {"format": FORMAT, "version": VERSION, **asdict(description)}
    content = json.loads(json.dumps(content))  # as it will be read: tuples are lists
    content["sha256"] = _seal(content)
    for left in folder.glob(f".{DESCRIPTION}.*.tmp"):  # by a process that was killed here
        left.unlink(missing_ok=True)
    with atomic_file(folder / DESCRIPTION) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())


def without(description: Description, items: NDArray[np.int64]) -> Description:
    """The same gallery with some more items deleted."""
    deleted = np.zeros(description.items + 2, np.int8)
    for start, end in description.deleted:
        deleted[start + 1 : end + 1] = 1
    deleted[items + 1] = 1
    edges = np.flatnonzero(np.diff(deleted)).tolist()
    return replace(description, deleted=tuple(zip(edges[::2], edges[1::2], strict=True)))


def part_of(content: bytes) -> Part:
    return Part(len(content), hashlib.sha256(content).hexdigest())


def block_of(content: dict[str, Any]) -> Block:
    """A block from JSON. Raises TypeError or ValueError if it is none."""
    block = Block(**content)
    if not all(_is_size(n, 1) for n in (block.items, block.rows)) or not _is_size(block.crc32, 0):
        raise ValueError("a block's sizes")
    return replace(block, sha256=_text(block.sha256))


def _description(content: dict[str, Any]) -> Description:
    """From JSON. Raises KeyError, TypeError or ValueError for what no gallery can be."""
    if content["kind"] not in KINDS or content["dtype"] not in DTYPES or not _is_size(content["columns"], 1):
        raise ValueError("kind, dtype or columns")
    if type(content["compact"]) is not bool:
        raise TypeError("compact")
    description = Description(
        kind=content["kind"],
        encoder=_text(content["encoder"]),
        dtype=content["dtype"],
        columns=content["columns"],
        compact=content["compact"],
        bundle=None if content["bundle"] is None else _text(content["bundle"]),
        blocks=tuple(map(block_of, content["blocks"])),
        lengths=_part_from(content["lengths"]),
        ids=None if content["ids"] is None else _part_from(content["ids"]),
        deleted=tuple((start, end) for start, end in content["deleted"]),
    )
    if not description.blocks:
        raise ValueError("no blocks")
    edges = [0, *(edge for run in description.deleted for edge in run), description.items]
    if not all(_is_size(edge, 0) for edge in edges) or edges != sorted(edges):
        raise ValueError("deleted items")
    return description


def _part_from(content: dict[str, Any]) -> Part:
    part = Part(**content)
    if not _is_size(part.size, 0):
        raise ValueError("a file's size")
    return replace(part, sha256=_text(part.sha256))


def _is_size(value: object, least: int) -> bool:
    return type(value) is int and value >= least


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def _seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} can't be read as JSON ({error}); {_AGAIN} with --overwrite") from error


def _read_part(path: Path, part: Part) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(part.size)
    except OSError as error:
        raise BundleError(f"{path} can't be read ({error.strerror}); {_AGAIN} with --overwrite") from error
    if len(content) != part.size:
        raise BundleError(f"{path} is truncated: {len(content)} bytes of {part.size}; {_AGAIN} with --overwrite")
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is not the gallery's; {_AGAIN} with --overwrite")
    return content


def _read_ids(path: Path, part: Part, items: int) -> list[str]:
    lines = _read_part(path, part).decode("utf-8").removesuffix("\n").split("\n")
    ids: list[str] = json.loads(f"[{','.join(lines)}]")
    if len(ids) != items:
        raise BundleError(f"{path} names {len(ids)} items, the gallery has {items}; {_AGAIN} with --overwrite")
    return ids


def _map_states(path: Path, description: Description) -> NDArray[np.floating]:
    expected = description.rows * description.row_bytes
    try:
        with path.open("rb") as file:  # measured and mapped: the same file, even if it is being replaced
            size = os.fstat(file.fileno()).st_size
            if size < expected:
                raise BundleError(f"{path} is truncated: {size} bytes of {expected}; {_AGAIN} with --overwrite")
            shape = (description.rows, description.columns)
            return np.memmap(file, np.dtype(description.dtype).newbyteorder("<"), "r", shape=shape)
    except OSError as error:
        raise BundleError(f"{path} can't be read ({error.strerror}); {_AGAIN} with --overwrite") from error
