"""Items and queries → sketches: pooled with the mean attention of the calibration items, then projected.

The score is (avᵀV)·(auᵀU). With av and au averaged over calibration items of the other side, each side becomes one
vector, and the score a product of two vectors (docs/large_galleries.md).
"""

from __future__ import annotations

from threading import Lock

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, DataError
from ...sketch import SIDES, BundleSketch, Sketch
from ...tiling import DEFAULT_TILE_BYTES
from ..backends.contract import Backend
from ..encoding import encode_tokens
from ..galleries.description import Kind
from ..galleries.gallery import Gallery
from ..galleries.in_memory import offsets_of
from ..inputs import Tokens
from ..scoring.cutters import Choice, Side, cutter_of
from .kernels import project, quantize, query_numbers

# Pairs per call of the backend, whose intermediates are (pairs, regions, words).
_PAIRS = 512


class Sketcher:
    """Sketches with one backend's states. Thread-safe."""

    def __init__(self, backend: Backend, source: BundleSketch) -> None:
        self._backend = backend
        self._source = source
        self.identity, self.columns = source.identity, source.columns
        self._lock = Lock()
        self._others: dict[Kind, Gallery] = {}

    def sketches(self, items: Gallery, rows: NDArray[np.int64] | None = None) -> NDArray[np.int8]:
        """(n, columns) of a gallery's items, or of those with the indices `rows`, from their states as stored.

        Raises DataError for an item without finite pooled states.
        """
        side = SIDES[items.kind]
        content = self._source.content
        projected = self._projected(items, rows)
        if not np.isfinite(projected).all():
            number = int(np.flatnonzero(~np.isfinite(projected).all(axis=1))[0])
            item = number if rows is None else int(rows[number])
            raise DataError(f"{items.kind} {item} can't be sketched: its states give NaN or infinity; encode it again")
        return quantize(projected, content.steps[side])

    def numbers(self, queries: Gallery) -> NDArray[np.int16] | None:
        """(Q, columns) of queries, for a scan of the other side's sketches; None if a query's states are not finite."""
        searched: Kind = "text" if queries.kind == "image" else "image"
        projected = self._projected(queries, queries.live)
        if not np.isfinite(projected).all():
            return None
        return query_numbers(projected, self._source.content.steps[SIDES[searched]])

    def pooled(self, items: Gallery, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """(n, D): each item's V or U weighted with its mean attention over the calibration items of the other side."""
        return pool(self._backend, items, self._calibration("text" if items.kind == "image" else "image"), rows)

    def held_out(self, kind: Kind) -> Gallery:
        """The held-out items of a kind, encoded: queries with which a gallery's recall is measured."""
        content = self._source.content
        return _items_of(self._backend, content, kind, slice(content.calibration, None))

    def _projected(self, items: Gallery, rows: NDArray[np.int64] | None) -> NDArray[np.float32]:
        return project(self.pooled(items, rows), self._source.content.projection[SIDES[items.kind]])

    def _calibration(self, kind: Kind) -> Gallery:
        with self._lock:
            if kind not in self._others:
                content = self._source.content
                self._others[kind] = _items_of(self._backend, content, kind, slice(0, content.calibration))
            return self._others[kind]


def pool(
    backend: Backend, items: Gallery, others: Gallery, rows: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """(n, D): V of images, or U of captions, weighted with their mean attention over `others`, items of the other kind.

    rows: indices of items, all by default.
    """
    rows = np.arange(len(items)) if rows is None else rows
    cutter = cutter_of(backend, Choice(DEFAULT_TILE_BYTES))
    other = cutter.gather(others, np.arange(len(others)))
    pooled = np.empty((len(rows), backend.model.config["embed_dim"]), np.float32)
    step = max(1, _PAIRS // len(others))
    # Padding costs time, so items of similar length go together; a pair's result does not depend on it.
    order = np.argsort(items.lengths[rows], kind="stable") if not cutter.reads_in_place(items) else np.arange(len(rows))
    for start in range(0, len(rows), step):
        chosen = order[start : start + step]
        side: Side = cutter.gather(items, rows[chosen])
        images, texts = (side, other) if items.kind == "image" else (other, side)
        tile = cutter.tile(images, texts)
        call = backend.pool_images if items.kind == "image" else backend.pool_captions
        pooled[chosen] = call(tile)
    return pooled


def _items_of(backend: Backend, content: Sketch, kind: Kind, part: slice) -> Gallery:
    """Some of the sketch's images or captions, as a gallery in memory."""
    lengths = (content.region_lengths if kind == "image" else content.token_lengths).astype(np.int64)
    ends = np.cumsum(lengths)
    numbers = range(len(lengths))[part]
    if len(numbers) == 0:
        raise BundleError("the sketch holds no held-out queries; make it again: caan sketch BUNDLE --data DIR")
    first = int(ends[numbers[0]] - lengths[numbers[0]])
    if kind == "image":
        regions = content.regions[first:]
        return expanded(backend, regions, lengths[part])
    tokens = [content.tokens[ends[n] - lengths[n] : ends[n]].tolist() for n in numbers]
    return encoded(backend, (tokens, lengths[part]))


def expanded(backend: Backend, regions: NDArray[np.floating], lengths: NDArray[np.int64]) -> Gallery:
    """Images from V alone (rows, D), as a gallery of complete states in memory."""
    states = backend.expand_regions(regions[None, : int(lengths.sum())].astype(np.float32))[0]
    return Gallery("image", backend.model.encoders["image"], states, offsets_of(lengths))


def encoded(backend: Backend, tokens: Tokens) -> Gallery:
    """Captions from their token ids, as a gallery in memory."""
    ids, lengths = tokens
    parts: list[NDArray[np.floating]] = [np.empty(0)] * len(ids)
    for items, padded in encode_tokens(backend, ids, lengths):
        for item, state in zip(items, padded, strict=True):
            parts[item] = state[: lengths[item]]
    return Gallery("text", backend.model.encoders["text"], np.concatenate(parts), offsets_of(lengths))
