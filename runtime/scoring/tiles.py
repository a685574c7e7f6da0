"""Images × captions, cut into tiles and scored: the stream behind searches and score matrices."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends.contract import Backend, RowTile, Tile
from ..encoding import CAPTIONS_PER_CALL, encode_tokens
from ..galleries.gallery import Gallery
from ..inputs import Tokens
from .cutters import MOST_PAIRS, Choice, Cutter, Side, cutter_of


class Scored(NamedTuple):
    """Some images × some captions and their scores."""

    images: NDArray[np.int64]  # (n,) positions
    captions: NDArray[np.int64]  # (m,) positions
    scores: NDArray[np.float32]  # (n, m)


def score_stream(backend: Backend, choice: Choice, images: Gallery, texts: Gallery | Tokens) -> Iterator[Scored]:
    """Score every live image with every live caption, a block of tiles at a time, in no particular order.

    texts: a gallery, or tokens, which are encoded in batches, so that their states are never all in memory.
    Raises as the backend, and BundleError if a gallery's file was changed.
    """
    # The backend may consume several tiles before it yields scores; their destinations are queued here.
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
    """The tiles `score_stream` would score."""
    return (tile for _, tile in _cut(backend, choice, images, texts))


class _Place(NamedTuple):
    """The destination of a tile's scores, and whether they complete the block."""

    block: Scored
    rows: slice
    columns: slice
    is_last: bool


def _cut(
    backend: Backend, choice: Choice, gallery: Gallery, texts: Gallery | Tokens
) -> Iterator[tuple[_Place, Tile | RowTile]]:
    """Tiles that cover every image × every caption."""
    live = gallery.live
    image_lengths = gallery.lengths_of(live)
    if len(live) == 0:
        return
    cutter = cutter_of(backend, choice)
    for captions, text_states in _caption_chunks(cutter, texts, len(live)):
        size = cutter.tile_size(image_lengths, text_states.lengths)
        # Cut once for all images, since only slices along the first axis are free.
        columns = _slices(len(captions), size.captions)
        parts = [text_states.part(column) for column in columns]
        # Large blocks keep the consumer's work per block small compared to the scorer's.
        per_block = max(1, MOST_PAIRS // len(captions) // size.images) * size.images
        for chunk in cutter.chunks(gallery, image_lengths, per_block):
            block = Scored(live[chunk], captions, np.empty((len(chunk), len(captions)), np.float32))
            for rows in _slices(len(chunk), cutter.images_per_tile(gallery, image_lengths[chunk], size)):
                images = cutter.gather(gallery, block.images[rows])
                for column, part in zip(columns, parts, strict=True):
                    is_last = (rows.stop, column.stop) == block.scores.shape
                    yield _Place(block, rows, column, is_last), cutter.tile(images, part)


def _slices(stop: int, size: int) -> list[slice]:
    return [slice(first, min(first + size, stop)) for first in range(0, stop, size)]


def _caption_chunks(cutter: Cutter, texts: Gallery | Tokens, images: int) -> Iterator[tuple[NDArray[np.int64], Side]]:
    """Positions and states of captions of similar length."""
    if isinstance(texts, Gallery):
        live = texts.live
        # Reading in place copies nothing, so a few images take many captions in one call.
        most = max(CAPTIONS_PER_CALL, MOST_PAIRS // images) if cutter.reads_in_place(texts) else CAPTIONS_PER_CALL
        for chunk in cutter.chunks(texts, texts.lengths_of(live), most):
            yield live[chunk], cutter.gather(texts, live[chunk])
        return
    tokens, lengths = texts
    for items, states in encode_tokens(cutter.backend, tokens, lengths):
        yield items, Side(states, lengths[items])
