"""Images × captions, cut into tiles and scored: the one stream that searches and score matrices drink from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..tiling import TileSize, chunks_by_length, fit_tile, tile_size
from .backend import Backend, Layout, Tile
from .encoding import CAPTIONS_PER_CALL, encode_tokens
from .galleries.gallery import Gallery
from .inputs import Tokens
from .states import gather_states

_BLOCK_PAIRS = 1 << 14


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

    def tiles() -> Iterator[Tile]:
        for place, tile in _cut(backend, choice, images, texts):
            places.append(place)
            yield tile

    for scores in backend.score_tiles(tiles(), choice.layout):
        place = places.popleft()
        place.block.scores[place.rows, place.columns] = scores
        if place.is_last:
            yield place.block


def tiles_of(backend: Backend, choice: Choice, images: Gallery, texts: Gallery | Tokens) -> Iterator[Tile]:
    """The tiles alone that `score_stream` would score."""
    return (tile for _, tile in _cut(backend, choice, images, texts))


class _Place(NamedTuple):
    """Where a tile's scores go, and whether they complete the block."""

    block: Scored
    rows: slice
    columns: slice
    is_last: bool


def _cut(backend: Backend, choice: Choice, gallery: Gallery, texts: Gallery | Tokens) -> Iterator[tuple[_Place, Tile]]:
    """Tiles until every image has met every caption."""
    live = gallery.live
    image_lengths = gallery.lengths[live]
    if len(live) == 0:
        return
    for captions, text_states, text_lengths in _caption_chunks(backend, texts):
        size = _size(backend, choice, image_lengths, text_lengths)
        # Cut once for all images: only a slice along the first axis is free.
        columns = _slices(len(captions), size.captions)
        parts = [np.ascontiguousarray(text_states[part, : text_lengths[part].max()]) for part in columns]
        # Whoever consumes the scores has some work per block, which should be little beside the scorer's.
        per_block = max(1, _BLOCK_PAIRS // len(captions) // size.images) * size.images
        for chunk in chunks_by_length(image_lengths, per_block):
            block = Scored(live[chunk], captions, np.empty((len(chunk), len(captions)), np.float32))
            for rows in _slices(len(chunk), size.images):
                states, lengths = gather_states(backend, gallery, block.images[rows])
                for part, some in zip(columns, parts, strict=True):
                    is_last = (rows.stop, part.stop) == block.scores.shape
                    yield _Place(block, rows, part, is_last), Tile(states, lengths, some, text_lengths[part])


def _slices(items: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, items)) for start in range(0, items, size)]


def _caption_chunks(
    backend: Backend, texts: Gallery | Tokens
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.int64]]]:
    """(positions, padded states, lengths) of captions of similar length."""
    if isinstance(texts, Gallery):
        live = texts.live
        for chunk in chunks_by_length(texts.lengths[live], CAPTIONS_PER_CALL):
            yield live[chunk], *gather_states(backend, texts, live[chunk])
        return
    tokens, lengths = texts
    for items, states in encode_tokens(backend, tokens, lengths):
        yield items, states, lengths[items]


def _size(
    backend: Backend, choice: Choice, image_lengths: NDArray[np.int64], text_lengths: NDArray[np.int64]
) -> TileSize:
    regions, words = int(image_lengths.max()), int(text_lengths.max())
    size = tile_size(regions, words, int(backend.config["attention_dim"]), choice.tile_bytes)
    images, captions = len(image_lengths), len(text_lengths)
    fitted = fit_tile(size, images, captions, backend.tile_limits(regions, words))
    workers = 1 if choice.layout is None else choice.layout.workers
    # Something for everybody: the last tiles decide how long a small job takes.
    return TileSize(min(fitted.images, -(-images // workers)), fitted.captions)
