"""gallery.json: the declared format. `folder.py` reads and writes it, `states_file.py` checks states by it.

The classes are the format: a field's type is what the file may hold, the comment says what it means. Sizes are bytes,
hashes SHA-256 in lower-case hexadecimal. The file also holds `format`, `version` and `checksum`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta, Struct

from .rows import Dtype, array_type

Kind = Literal["image", "text"]
Size = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]


class Block(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Consecutive items that were encoded and written together."""

    items: Size
    rows: Size
    sha256: str  # of their states
    crc32: Count  # of the input they were made from: a resumed run continues if it is still the same
    sketches: str | None = None  # SHA-256 of their rows of sketches.bin; absent: the gallery has none


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """The beginning of a file that counts."""

    size: Count
    sha256: str


class Accuracy(Struct, frozen=True):
    """What bfloat16 or int8 states cost, measured as for a bundle's precision."""

    status: Literal["passed", "failed", "ungated"]
    check: dict[str, Any] | None = None  # as in a precision's record; null if ungated


class SketchRecord(Struct, frozen=True):
    """Which sketches sketches.bin holds."""

    model: str  # identity of the bundle's sketch that made them; another model's are refused
    columns: Size


class Curve(Struct, frozen=True):
    """Recall of searches among the best sketches, measured with held-out queries against exact search."""

    items: Size  # in the gallery when it was measured, deleted ones aside
    sample: Size  # of them, drawn at random and scored exactly
    queries: Size
    k: tuple[Size, ...]  # increasing; one row of the following for each
    candidates: tuple[Size, ...]  # increasing; one column of the following for each
    recall: tuple[tuple[float, ...], ...]  # share of the exact k best that are among the candidates
    low: tuple[tuple[float, ...], ...]  # of its 95 % interval
    high: tuple[tuple[float, ...], ...]


class Description(Struct, frozen=True):
    """The entries of gallery.json."""

    kind: Kind
    encoder: str  # hash of the graph that made the states; another encoder's are refused
    dtype: Dtype
    columns: Size  # of a row
    compact: bool = False  # whether rows hold V alone
    bundle: str | None = None  # path of the bundle, relative to the gallery
    blocks: tuple[Block, ...] = ()  # in order; at least one in a file
    lengths: Part = Part(0, "")  # of lengths.bin
    ids: Part | None = None  # of ids.jsonl; null: items have no ids
    deleted: tuple[tuple[Count, Count], ...] = ()  # [first, last + 1] of each run of deleted items, increasing
    accuracy: Accuracy | None = None  # of bfloat16 and int8 states; others have no such entry
    sketch: SketchRecord | None = None  # of sketches.bin; absent without one
    curve: Curve | None = None  # absent until measured

    @property
    def items(self) -> int:
        return sum(block.items for block in self.blocks)

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def row_type(self) -> tuple[np.dtype[Any], int]:
        """(dtype, columns) of an array of its rows, as stored."""
        return array_type(self.dtype, self.columns, matrices_of(self.kind, compact=self.compact))

    @property
    def row_bytes(self) -> int:
        kind, columns = self.row_type
        return columns * kind.itemsize


def matrices_of(kind: Kind, *, compact: bool) -> int:
    """The number of matrices side by side in a state."""
    return 1 if compact else 5 if kind == "image" else 4
