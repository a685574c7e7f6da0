"""Sizes of tiles: the images and captions of one scorer call.

A tile is some images × some captions. Its size is chosen by a memory budget: the scorer writes every pair's (R + T) × d
intermediates to memory several times, so small tiles that stay in cache are as fast as large ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DEFAULT_TILE_BYTES = 64 << 20
# A GPU needs enough pairs at once to keep all its cores busy, not tiles that fit a CPU's cache.
GPU_TILE_BYTES = 1 << 30
# Simultaneous copies of the (R + T) × d products in a runtime: the sum's three terms and its result.
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
    """Extend one side of a tile if the other is short: a single query takes many items at a time."""
    pairs = tile.images * tile.captions
    c = min(tile.captions, captions)
    n = min(max(tile.images, pairs // c), images)
    return TileSize(n, min(max(c, pairs // n), captions))


def fit_tile(tile: TileSize, images: int, captions: int, limits: Sequence[TileSize]) -> TileSize:
    """The tile for this many images × captions: as `widen`, within whichever of `limits` allows the most pairs.

    Without limits only memory bounds a tile.
    """
    bounds = limits or [TileSize(images, captions)]
    tiles = [widen(tile, min(images, limit.images), min(captions, limit.captions)) for limit in bounds]
    return max(tiles, key=lambda t: t.images * t.captions)


def chunks_by_length(lengths: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Indices in chunks of at most `size`, sorted by length to minimise padding."""
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        yield order[start : start + size]
