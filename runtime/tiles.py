"""Images × captions, cut into tiles and scored: the one stream that searches and score matrices drink from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise, starmap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..bundle import state_widths
from ..tiling import TileSize, chunks_by_length, fit_tile, tile_size
from .backend import Backend, Layout, Tile
from .encoding import CAPTIONS_PER_CALL, encode_tokens
from .galleries.gallery import Gallery
from .inputs import Tokens
from .states import gather_states

_BLOCK_PAIRS = 1 << 14
# For a fused scorer: at most so much is copied for one call where states don't lie as it takes them. What was just
# copied should still be in a cache when it is read; if it is read that often that this hardly counts, fewer calls do.
_COPY_BYTES, _COPY_BYTES_FOR_MANY = 6 << 20, 32 << 20
_FEW = 4
# So many images that lie side by side are worth a call of their own, without a copy.
_WORTH_A_CALL = 8


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
    for captions, text_states, text_lengths in _caption_chunks(backend, texts, len(live)):
        size = _size(backend, choice, image_lengths, text_lengths)
        # Cut once for all images: only a slice along the first axis is free.
        columns = _slices(0, len(captions), size.captions)
        parts = [np.ascontiguousarray(text_states[part, : text_lengths[part].max()]) for part in columns]
        # Whoever consumes the scores has some work per block, which should be little beside the scorer's.
        per_block = max(1, _BLOCK_PAIRS // len(captions) // size.images) * size.images
        for chunk in chunks_by_length(image_lengths, per_block):
            block = Scored(live[chunk], captions, np.empty((len(chunk), len(captions)), np.float32))
            for rows in _rows(backend, gallery, block.images, size):
                states, lengths = _gather(backend, gallery, block.images[rows])
                for part, some in zip(columns, parts, strict=True):
                    is_last = (rows.stop, part.stop) == block.scores.shape
                    yield _Place(block, rows, part, is_last), Tile(states, lengths, some, text_lengths[part])


def _gather(
    backend: Backend, gallery: Gallery, items: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """As `gather_states`, but what a fused scorer takes as it is stays so."""
    return gallery.gather(items) if backend.fused and not gallery.compact else gather_states(backend, gallery, items)


def _rows(backend: Backend, gallery: Gallery, images: NDArray[np.int64], size: TileSize) -> list[slice]:
    """Where to cut a block's images (n,) into tiles: for a fused scorer, such that little is copied."""
    if not backend.fused:
        return _slices(0, len(images), size.images)
    lengths = gallery.lengths[images]
    most = _most_copied(backend, gallery, lengths, size.captions)
    rows: list[slice] = []
    copied = 0  # the first image that is in no tile yet
    for run in [] if gallery.compact else _runs(images, lengths):
        if run.stop - run.start >= _WORTH_A_CALL:
            rows += [*_slices(copied, run.start, most), run]
            copied = run.stop
    return rows + _slices(copied, len(images), most)


def _most_copied(backend: Backend, gallery: Gallery, lengths: NDArray[np.int64], partners: int) -> int:
    """Of items of these lengths, so many may be copied for one call that scores them with so many of the other side."""
    # A compact gallery's states are computed again, in float32.
    row = 4 * state_widths(backend.config)[gallery.kind] if gallery.compact else gallery.states[:1].nbytes
    return max(1, (_COPY_BYTES if partners <= _FEW else _COPY_BYTES_FOR_MANY) // (int(lengths.max()) * row))


def _runs(items: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[slice]:
    """Equally long neighbours, which are a view of the gallery: as many as there are side by side."""
    ends = np.flatnonzero((np.diff(items) != 1) | (np.diff(lengths) != 0)) + 1
    return starmap(slice, pairwise([0, *ends.tolist(), len(items)]))


def _slices(start: int, stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def _caption_chunks(
    backend: Backend, texts: Gallery | Tokens, images: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.int64]]]:
    """(positions, padded states, lengths) of captions of similar length."""
    if isinstance(texts, Gallery):
        live = texts.live
        lengths = texts.lengths[live]
        # Captions are rarely of one length: counted as if every chunk were copied.
        most = _most_copied(backend, texts, lengths, images) if backend.fused and len(live) else CAPTIONS_PER_CALL
        for chunk in chunks_by_length(lengths, min(most, CAPTIONS_PER_CALL)):
            yield live[chunk], *_gather(backend, texts, live[chunk])
        return
    tokens, lengths = texts
    for items, states in encode_tokens(backend, tokens, lengths):
        yield items, states, lengths[items]


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
