"""A gallery's folder: reading, verifying and describing it.

GALLERY/gallery.json   kind and encoder of the states, size and SHA-256 of every file, deleted items (description.py)
GALLERY/states.bin     item after item, without padding: rows as stored (rows.py)
GALLERY/lengths.bin    (items,) int32: rows of each item
GALLERY/sketches.bin   optional: (items, columns) int8, of deleted items, too
GALLERY/ids.jsonl      optional: one JSON string per item, a line each

gallery.json ends with `checksum`, the SHA-256 of all bytes above it, and says how much of each other file counts. An
append replaces these with longer files that begin alike, and then gallery.json, which publishes the items. A
published file is never written to. States are hashed in blocks, each verified when first used, so that a gallery opens
at once whatever its size.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace
from numpy.typing import NDArray

from ..._checksum import is_intact, text_with_checksum
from ..._files import atomic_file, open_regular, read_consistently, read_regular
from ..._schema import MisfitError, typed
from ..._text import parse_json, visible
from ...errors import BundleError
from .description import Curve, Description, Part
from .rows import SMALL_DTYPES
from .sketches_file import Sketches, SketchesFile
from .states_file import States, Storage

# gallery.json is protected in version 2 by a hash of its entries as Python prints them, later by a checksum.
# Version 4 is for states in bfloat16 or int8, and for sketches, which an older caan can't read; other galleries are
# still written as version 3.
FORMAT, VERSION, OLDEST_VERSION = "caan-gallery", 4, 2
_OLD_SEAL, _INDENT = "sha256", 1
_OPTIONAL = {"accuracy", "sketch", "curve"}
DESCRIPTION, STATES, LENGTHS, IDS = "gallery.json", "states.bin", "lengths.bin", "ids.jsonl"
SKETCHES = "sketches.bin"
LENGTH = np.dtype("<i4")
_AGAIN = "run caan index again"


@dataclass(frozen=True)
class Contents:
    """An opened gallery folder."""

    description: Description
    states: States
    offsets: NDArray[np.int64]  # (items + 1,)
    ids: list[str] | None
    deleted: NDArray[np.bool_] | None  # (items,)
    sketches: Sketches | None

    @cached_property
    def live(self) -> NDArray[np.int64]:
        """Increasing indices of the items that are not deleted."""
        return live_items(self.description.items, self.deleted)


def live_items(items: int, deleted: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Increasing indices of the items that `deleted` (items,) does not mark."""
    return np.arange(items) if deleted is None else np.flatnonzero(~deleted)


def read(folder: Path, storage: Storage = "mapped") -> Contents:
    """Open a gallery; another process may replace it or append to it meanwhile.

    Raises BundleError, naming the file, if one is missing, damaged or newer.
    """
    return read_consistently(folder / DESCRIPTION, lambda: _read(folder, storage))


def _read(folder: Path, storage: Storage) -> Contents:
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
    if ids is not None:
        _check_unique(folder / IDS, ids, deleted)
    sketches = None
    if description.sketch is not None:
        rows = SketchesFile(folder.absolute() / SKETCHES, description)
        sketches = Sketches(description.sketch.model, description.sketch.columns, description.curve, rows)
    return Contents(description, States(folder / STATES, description, storage), offsets, ids, deleted, sketches)


def read_description(folder: Path) -> Description:
    """The entries of gallery.json. Raises BundleError if it is missing, damaged or newer."""
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a gallery: it has no {DESCRIPTION}; make one with: caan index BUNDLE FEATURES"
        )
    text, content = _read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BundleError(f"{path} does not describe a {FORMAT}; make one with: caan index BUNDLE FEATURES")
    version = content.get("version")
    if type(version) is not int or version > VERSION:
        raise BundleError(
            f"{path} has format version {version}, this caan reads up to {VERSION}; update caan, as with git pull and"
            " pip install in its checkout"
        )
    if version < OLDEST_VERSION:
        raise BundleError(f"{path} has format version {version}, which an older caan wrote; {_AGAIN}")
    is_good = content.pop(_OLD_SEAL, None) == _old_seal(content) if version == 2 else is_intact(text, _INDENT)
    if not is_good:
        raise BundleError(f"{path} was changed: its SHA-256 is not the one it holds; {_AGAIN} with --overwrite")
    try:
        return _described(content)
    except MisfitError as misfit:  # it has a checksum, but this version of caan did not write it
        reason = visible(str(misfit)[:200])
        raise BundleError(f"{path} is not a valid description ({reason}); {_AGAIN} with --overwrite") from misfit


def write_description(folder: Path, description: Description) -> None:
    """Publish by replacing gallery.json. The caller holds the folder's lock. Raises OutputError if that fails."""
    content = {"format": FORMAT, "version": version_of(description), **to_builtins(description)}
    for name in _OPTIONAL:
        if content[name] is None:
            del content[name]
    for left in folder.glob(f".{DESCRIPTION}.*.tmp"):  # by a killed process
        left.unlink(missing_ok=True)
    with atomic_file(folder / DESCRIPTION) as temporary, temporary.open("wb") as file:
        file.write(text_with_checksum(content, {}, _INDENT))
        file.flush()
        os.fsync(file.fileno())


def version_of(description: Description) -> int:
    """The format version a gallery is written in: the oldest that has what it needs."""
    return VERSION if description.dtype in SMALL_DTYPES or description.sketch is not None else 3


def without(description: Description, items: NDArray[np.int64]) -> Description:
    """The same gallery with these items deleted, too."""
    deleted = np.zeros(description.items + 2, np.int8)
    for start, end in description.deleted:
        deleted[start + 1 : end + 1] = 1
    deleted[items + 1] = 1
    edges = np.flatnonzero(np.diff(deleted)).tolist()
    return replace(description, deleted=tuple(zip(edges[::2], edges[1::2], strict=True)))


def seal_of_items(description: Description, items: int) -> str:
    """SHA-256 of the entries that determine the states of all blocks that hold the first `items` items."""
    d = description
    ends = np.cumsum([0, *(block.items for block in d.blocks)])
    blocks = d.blocks[: int(np.searchsorted(ends, items))]
    content = [d.kind, d.encoder, d.dtype, d.columns, d.compact, [[b.items, b.rows, b.sha256] for b in blocks]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def part_of(content: bytes) -> Part:
    return Part(len(content), hashlib.sha256(content).hexdigest())


def _described(content: dict[str, Any]) -> Description:
    """The entries as a Description. Raises MisfitError for one that no gallery has."""
    for name in Description.__struct_fields__:  # defaults are for new galleries: a file states everything
        if name not in content and name not in _OPTIONAL:
            raise MisfitError(name, "it is missing")
    description = typed(content, Description)
    if not description.blocks:
        raise MisfitError("blocks", "there are none")
    if any((block.sketches is None) != (description.sketch is None) for block in description.blocks):
        raise MisfitError("sketch", "some blocks have sketches and others none")
    _check_curve(description.curve)
    edges = [0, *chain.from_iterable(description.deleted), description.items]
    if edges != sorted(edges):
        raise MisfitError("deleted", f"not increasing, or beyond the {description.items} items")
    return description


def _check_curve(curve: Curve | None) -> None:
    """Raise MisfitError unless the curve's numbers form a table."""
    if curve is None:
        return
    rows = (*curve.recall, *curve.low, *curve.high)
    is_table = all(len(row) == len(curve.candidates) for row in rows) and len(rows) == 3 * len(curve.k)
    is_increasing = all(a < b for numbers in (curve.k, curve.candidates) for a, b in pairwise(numbers))
    if not (curve.k and curve.candidates and is_table and is_increasing):
        raise MisfitError("curve", "its rows or columns do not fit")


def _old_seal(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_json(path: Path) -> tuple[bytes, Any]:
    try:
        text = read_regular(path)
        return text, parse_json(text)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} can't be read as JSON ({error}); {_AGAIN} with --overwrite") from error


def _read_part(path: Path, part: Part) -> bytes:
    try:
        with open_regular(path) as file:
            # Compared first: memory is allocated for the file's real size, not for a claimed one.
            size = os.fstat(file.fileno()).st_size
            if size < part.size:
                raise BundleError(f"{path} is truncated: {size} bytes of {part.size}; {_AGAIN} with --overwrite")
            content = file.read(part.size)
    except OSError as error:
        raise BundleError(f"{path} can't be read ({error.strerror}); {_AGAIN} with --overwrite") from error
    except MemoryError as error:
        raise BundleError(f"{path} needs more memory than there is: {part.size:,} bytes") from error
    if len(content) != part.size:
        raise BundleError(f"{path} is truncated: {len(content)} bytes of {part.size}; {_AGAIN} with --overwrite")
    if hashlib.sha256(content).hexdigest() != part.sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is not the gallery's; {_AGAIN} with --overwrite")
    return content


def _read_ids(path: Path, part: Part, items: int) -> list[str]:
    content = _read_part(path, part)
    try:
        lines = content.decode("utf-8").removesuffix("\n").split("\n")
        ids: list[str] = json.loads(f"[{','.join(lines)}]")
        is_text = all(type(name) is str for name in ids)
        "".join(ids if is_text else []).encode("utf-8")  # fails on half a surrogate pair
    except (ValueError, RecursionError):
        is_text = False
    if not is_text:
        raise BundleError(f"{path} does not hold one text a line; {_AGAIN} with --overwrite")
    if len(ids) != items:
        raise BundleError(f"{path} names {len(ids)} items, the gallery has {items}; {_AGAIN} with --overwrite")
    return ids


def _check_unique(path: Path, ids: list[str], deleted: NDArray[np.bool_] | None) -> None:
    """Raise BundleError if two items have the same id; a deleted item's id may be used again."""
    live = ids if deleted is None else [ids[number] for number in live_items(len(ids), deleted).tolist()]
    if len(set(live)) < len(live):
        raise BundleError(f"{path} gives two items the same id; {_AGAIN} with --overwrite")
