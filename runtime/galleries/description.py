"""What gallery.json says, as Python holds it: `folder.py` reads and writes it, `states_file.py` checks states by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


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
