"""Which images meet which captions in one scorer call.

A tile is some images × some captions. Its size follows from a memory budget: the scorer writes every pair's
(R + T) × d intermediates to memory a few times, so small tiles that stay in cache are no slower than large ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_TILE_BYTES = 64 << 20
# A GPU has no use for tiles that fit a CPU's cache; it wants enough pairs at once to keep all its cores busy.
GPU_TILE_BYTES = 1 << 30
# Copies of the (R + T) × d products that a runtime keeps at once: the sum's three terms and its result.
_LIVE_COPIES = 4


@dataclass(frozen=True)
class TileSize:
    """At most this many images × captions in one scorer call."""

    images: int
    captions: int


def tile_size(regions: int, words: int, attention_dim: int, budget: int = DEFAULT_TILE_BYTES) -> TileSize:
    """The largest square tile whose intermediates fit into `budget` bytes; at least one pair."""
    per_pair = 4 * _LIVE_COPIES * ((regions + words) * attention_dim + 2 * regions * words)
    side = max(1, int((budget / per_pair) ** 0.5))
    return TileSize(side, side)


def widen(tile: TileSize, images: int, captions: int) -> TileSize:
    """Use the room that one short side leaves for the other: a single query takes many items at a time."""
    pairs = tile.images * tile.captions
    c = min(tile.captions, captions)
    n = min(max(tile.images, pairs // c), images)
    return TileSize(n, min(max(c, pairs // n), captions))


def fit_tile(tile: TileSize, images: int, captions: int, limits: Sequence[TileSize]) -> TileSize:
    """The tile for so many images × captions: as `widen`, within the one of `limits` that lets the most pairs in.

    Without limits a tile is bounded by its memory alone.
    """
    room = limits or [TileSize(images, captions)]
    tiles = [widen(tile, min(images, limit.images), min(captions, limit.captions)) for limit in room]
    return max(tiles, key=lambda t: t.images * t.captions)


def chunks_by_length(lengths: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Indices in chunks of at most `size`, sorted by length, so that little padding enters a tile."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
