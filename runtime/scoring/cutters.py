"""Cuts galleries into tiles: one cutter for each kind of tile a backend scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...bundle import state_widths
from ...tiling import TileSize, chunks_by_length, fit_tile, tile_size
from ..backends.contract import Backend, GraphTiles, KernelRows, KernelTiles, Layout, RowTile, Tile
from ..galleries.gallery import Gallery
from ..galleries.rows import SMALL_DTYPES
from ..gather import gather_states

# The most pairs in a block of scores, and in a kernel's tile, so that consumers of the scores see progress.
MOST_PAIRS = 1 << 14
# The most that is recomputed of a compact gallery for one tile of rows.
_EXPANDED_BYTES = 32 << 20

Lengths = NDArray[np.int64]


class Choice(NamedTuple):
    """How tiles are scored: memory for one tile's intermediates, and how calls share the CPU's cores."""

    tile_bytes: int
    layout: Layout | None = None  # None: the backend's own


class Side(NamedTuple):
    """A tile's images or captions: padded states (n, L, S), or with starts, rows (rows, S) of a gallery."""

    states: NDArray[np.floating]
    lengths: Lengths  # (n,)
    starts: Lengths | None = None  # (n,)

    def part(self, items: slice) -> Side:
        lengths = self.lengths[items]
        if self.starts is not None:
            return Side(self.states, lengths, self.starts[items])
        return Side(np.ascontiguousarray(self.states[items, : lengths.max()]), lengths)

    def rows(self) -> tuple[NDArray[np.floating], Lengths, Lengths]:
        """(states, starts, lengths) as in `RowTile`."""
        if self.starts is not None:
            return self.states, self.starts, self.lengths
        items, longest, width = self.states.shape
        return self.states.reshape(-1, width), np.arange(items, dtype=np.int64) * longest, self.lengths


class Cutter(Protocol):
    """Cuts images × captions into the tiles of one backend."""

    backend: Backend

    def tile_size(self, images: Lengths, captions: Lengths) -> TileSize:
        """The largest tile of items with these lengths. A block's images are a multiple of the tile's."""

    def chunks(self, gallery: Gallery, lengths: Lengths, size: int) -> Iterator[NDArray[np.int64]]:
        """Indices into `lengths`, the lengths of some of the gallery's items, in chunks of at most `size`."""

    def images_per_tile(self, gallery: Gallery, lengths: Lengths, size: TileSize) -> int:
        """The number of images with these lengths per tile."""

    def gather(self, gallery: Gallery, items: NDArray[np.int64]) -> Side:
        """States of some items."""

    def reads_in_place(self, gallery: Gallery) -> bool:
        """Whether `gather` copies nothing."""

    def tile(self, images: Side, captions: Side) -> Tile | RowTile:
        """The two sides as the backend takes them."""


def cutter_of(backend: Backend, choice: Choice) -> Cutter:
    """The cutter for the backend's `tiles`."""
    tiles = backend.tiles
    if isinstance(tiles, GraphTiles):
        return _GraphCutter(backend, tiles, choice)
    return _KernelCutter(backend, tiles) if isinstance(tiles, KernelTiles) else _RowCutter(backend, tiles)


class _PaddedCutter:
    """Base of the cutters for padded tiles."""

    def chunks(self, gallery: Gallery, lengths: Lengths, size: int) -> Iterator[NDArray[np.int64]]:
        return chunks_by_length(lengths, size)

    def reads_in_place(self, gallery: Gallery) -> bool:
        return False

    def tile(self, images: Side, captions: Side) -> Tile:
        return Tile(images.states, images.lengths, captions.states, captions.lengths)


class _GraphCutter(_PaddedCutter):
    """Padded tiles in the backend's state dtype, whose intermediates fit the choice's memory."""

    def __init__(self, backend: Backend, tiles: GraphTiles, choice: Choice) -> None:
        self.backend, self._tiles, self._choice = backend, tiles, choice

    def tile_size(self, images: Lengths, captions: Lengths) -> TileSize:
        regions, words = int(images.max()), int(captions.max())
        attention_dim, layout = int(self.backend.model.config["attention_dim"]), self._choice.layout
        size = tile_size(regions, words, attention_dim, self._choice.tile_bytes)
        fitted = fit_tile(size, len(images), len(captions), self._tiles.limits(regions, words))
        workers = 1 if layout is None else layout.workers
        # Give every worker a tile: in a small job the last tiles determine the time.
        return TileSize(min(fitted.images, -(-len(images) // workers)), fitted.captions)

    def images_per_tile(self, gallery: Gallery, lengths: Lengths, size: TileSize) -> int:
        return size.images

    def gather(self, gallery: Gallery, items: NDArray[np.int64]) -> Side:
        return Side(*gather_states(self.backend, gallery, items))


class _KernelCutter(_PaddedCutter):
    """Padded tiles of any size in the gallery's dtype, float16 or float32; others are widened."""

    def __init__(self, backend: Backend, tiles: KernelTiles) -> None:
        self.backend, self._tiles = backend, tiles

    def tile_size(self, images: Lengths, captions: Lengths) -> TileSize:
        return _block_size(images, captions)

    def images_per_tile(self, gallery: Gallery, lengths: Lengths, size: TileSize) -> int:
        # States are recomputed, or widened, in float32.
        width = state_widths(self.backend.model.config)["image"]
        row = gallery.states[:1].nbytes if self._as_stored(gallery) else 4 * width
        return max(1, self._tiles.copy_bytes // (int(lengths.max()) * row))

    def gather(self, gallery: Gallery, items: NDArray[np.int64]) -> Side:
        if self._as_stored(gallery):
            return Side(*gallery.gather(items))
        return Side(*gather_states(self.backend, gallery, items))

    def _as_stored(self, gallery: Gallery) -> bool:
        return not gallery.compact and gallery.dtype not in SMALL_DTYPES


class _RowCutter:
    """Rows of the gallery, read in place; a compact gallery's are recomputed a few at a time."""

    def __init__(self, backend: Backend, tiles: KernelRows) -> None:
        self.backend, self._tiles = backend, tiles
        self._expanded = _KernelCutter(backend, KernelTiles(_EXPANDED_BYTES))

    def tile_size(self, images: Lengths, captions: Lengths) -> TileSize:
        return _block_size(images, captions)

    def chunks(self, gallery: Gallery, lengths: Lengths, size: int) -> Iterator[NDArray[np.int64]]:
        # Without padding, lengths need not be similar, so items stay in the gallery's order.
        return chunks_by_length(np.zeros_like(lengths) if self.reads_in_place(gallery) else lengths, size)

    def images_per_tile(self, gallery: Gallery, lengths: Lengths, size: TileSize) -> int:
        return len(lengths) if self.reads_in_place(gallery) else self._expanded.images_per_tile(gallery, lengths, size)

    def gather(self, gallery: Gallery, items: NDArray[np.int64]) -> Side:
        if not self.reads_in_place(gallery):
            return self._expanded.gather(gallery, items)
        starts, lengths = gallery.rows(items)
        return Side(gallery.states, lengths, starts)

    def reads_in_place(self, gallery: Gallery) -> bool:
        return not gallery.compact and gallery.dtype in self._tiles.dtypes

    def tile(self, images: Side, captions: Side) -> RowTile:
        return RowTile(*images.rows(), *captions.rows())


def _block_size(images: Lengths, captions: Lengths) -> TileSize:
    return TileSize(min(len(images), max(1, MOST_PAIRS // len(captions))), len(captions))
