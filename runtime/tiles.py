"""Images × captions, cut into tiles and scored: the one stream that searches and score matrices drink from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle import state_widths
from ..tiling import TileSize, chunks_by_length, fit_tile, tile_size
from .backend import Backend, Layout, RowTile, Tile
from .encoding import CAPTIONS_PER_CALL, encode_tokens
from .galleries.gallery import Gallery
from .inputs import Tokens
from .states import gather_states

_BLOCK_PAIRS = 1 << 14
# For a fused scorer that does not read states in place: at most so much is copied for one call.
_COPY_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}


class Scored(NamedTuple):
    """Some images × some captions and their scores."""

    images: NDArray[np.int64]  # (n,) positions
    captions: NDArray[np.int64]  # (m,) positions
    scores: NDArray[np.float32]  # (n, m)


class Choice(NamedTuple):
    """How tiles are scored: memory for one tile's intermediates, and how calls share the processor's cores."""

    tile_bytes: int
    layout: Layout | None = None  # None: the backend's own


def score_stream(backend: Backend, choice: Choice, images: Gallery, texts: Gallery | Tokens) -> Iterator[Scored]:
    """Score every image with every caption, deleted ones left out, a block of tiles at a time in no particular order.

    texts: a gallery, or tokens, which are encoded on the way: their states never are in memory all at once.
    Raises what the backend raises, and BundleError for a gallery whose file was changed.
    """
    # The backend may take tiles before it gives the first one's scores: where those go waits here.
    places: deque[_Place] = deque()

    def tiles() -> Iterator[Tile | RowTile]:
        for place, tile in _cut(backend, choice, images, texts):
            places.append(place)
            yield tile

    for scores in backend.score_tiles(tiles(), choice.layout):
        place = places.popleft()
        place.block.scores[place.rows, place.columns] = scores
        if place.is_last:
            yield place.block
    for gallery in (images, texts):
        if isinstance(gallery, Gallery):
            gallery.confirm()


def tiles_of(backend: Backend, choice: Choice, images: Gallery, texts: Gallery | Tokens) -> Iterator[Tile | RowTile]:
    """The tiles alone that `score_stream` would score."""
    return (tile for _, tile in _cut(backend, choice, images, texts))


class _Place(NamedTuple):
    """Where a tile's scores go, and whether they complete the block."""

    block: Scored
    rows: slice
    columns: slice
    is_last: bool


def _cut(
    backend: Backend, choice: Choice, gallery: Gallery, texts: Gallery | Tokens
) -> Iterator[tuple[_Place, Tile | RowTile]]:
    """Tiles until every image has met every caption."""
    live = gallery.live
    image_lengths = gallery.lengths[live]
    if len(live) == 0:
        return
    for captions, text_states in _caption_chunks(backend, texts, len(live)):
        size = _size(backend, choice, image_lengths, text_states.lengths)
        # Cut once for all images: only a slice along the first axis is free.
        columns = _slices(len(captions), size.captions)
        parts = [text_states.part(some) for some in columns]
        # Whoever consumes the scores has some work per block, which should be little beside the scorer's.
        per_block = max(1, _BLOCK_PAIRS // len(captions) // size.images) * size.images
        for chunk in _chunks(backend, gallery, image_lengths, per_block):
            block = Scored(live[chunk], captions, np.empty((len(chunk), len(captions)), np.float32))
            for rows in _slices(len(chunk), _rows_per_call(backend, gallery, image_lengths[chunk], size)):
                images = _gather(backend, gallery, block.images[rows])
                for part, some in zip(columns, parts, strict=True):
                    is_last = (rows.stop, part.stop) == block.scores.shape
                    yield _Place(block, rows, part, is_last), _tile(backend, images, some)


class _Side(NamedTuple):
    """The images or the captions of a tile: padded states, or, with starts, their rows."""

    states: NDArray[np.floating]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64] | None = None

    def part(self, items: slice) -> _Side:
        lengths = self.lengths[items]
        if self.starts is not None:
            return _Side(self.states, lengths, self.starts[items])
        return _Side(np.ascontiguousarray(self.states[items, : lengths.max()]), lengths)

    def rows(self) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
        """As `RowTile` has them."""
        if self.starts is not None:
            return self.states, self.starts, self.lengths
        items, longest, width = self.states.shape
        return self.states.reshape(-1, width), np.arange(items, dtype=np.int64) * longest, self.lengths


def _tile(backend: Backend, images: _Side, captions: _Side) -> Tile | RowTile:
    if backend.in_place:
        return RowTile(*images.rows(), *captions.rows())
    return Tile(images.states, images.lengths, captions.states, captions.lengths)


def _gather(backend: Backend, gallery: Gallery, items: NDArray[np.int64]) -> _Side:
    """States of some items. What a fused scorer takes as it is stays so."""
    if _in_place(backend, gallery):
        starts, lengths = gallery.rows(items)
        return _Side(gallery.states, lengths, starts)
    if backend.fused and not gallery.compact:
        return _Side(*gallery.gather(items))
    return _Side(*gather_states(backend, gallery, items))


def _in_place(backend: Backend, gallery: Gallery) -> bool:
    return backend.in_place and not gallery.compact


def _chunks(backend: Backend, gallery: Gallery, lengths: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Indices of `lengths` in chunks: in place there is no padding, and they stay as they lie."""
    return chunks_by_length(np.zeros_like(lengths) if _in_place(backend, gallery) else lengths, size)


def _rows_per_call(backend: Backend, gallery: Gallery, lengths: NDArray[np.int64], size: TileSize) -> int:
    """How many images make one tile, if they are of these lengths."""
    if not backend.fused:
        return size.images
    if _in_place(backend, gallery):
        return len(lengths)
    # A compact gallery's states are computed again, in float32.
    row = 4 * state_widths(backend.config)["image"] if gallery.compact else gallery.states[:1].nbytes
    return max(1, _COPY_BYTES[backend.device] // (int(lengths.max()) * row))


def _slices(stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(0, stop, size)]


def _caption_chunks(
    backend: Backend, texts: Gallery | Tokens, images: int
) -> Iterator[tuple[NDArray[np.int64], _Side]]:
    """Positions and states of captions of similar length."""
    if isinstance(texts, Gallery):
        live = texts.live
        # In place, a few images take many captions in one call.
        most = max(CAPTIONS_PER_CALL, _BLOCK_PAIRS // images) if _in_place(backend, texts) else CAPTIONS_PER_CALL
        for chunk in _chunks(backend, texts, texts.lengths[live], most):
            yield live[chunk], _gather(backend, texts, live[chunk])
        return
    tokens, lengths = texts
    for items, states in encode_tokens(backend, tokens, lengths):
        yield items, _Side(states, lengths[items])


def _size(
    backend: Backend, choice: Choice, image_lengths: NDArray[np.int64], text_lengths: NDArray[np.int64]
) -> TileSize:
    images, captions = len(image_lengths), len(text_lengths)
    if backend.fused:
        return TileSize(min(images, max(1, _BLOCK_PAIRS // captions)), captions)
    regions, words = int(image_lengths.max()), int(text_lengths.max())
    size = tile_size(regions, words, int(backend.config["attention_dim"]), choice.tile_bytes)
    fitted = fit_tile(size, images, captions, backend.tile_limits(regions, words))
    workers = 1 if choice.layout is None else choice.layout.workers
    # Something for everybody: the last tiles decide how long a small job takes.
    return TileSize(min(fitted.images, -(-images // workers)), fitted.captions)
