"""Sketches and measured recall for a gallery that exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..._progress import progress_bar
from ...tiling import DEFAULT_TILE_BYTES
from ..backends.contract import Backend
from ..galleries.changes import write_curve, write_sketches
from ..galleries.description import Curve, SketchRecord
from ..galleries.gallery import Gallery
from ..galleries.sketches_file import Sketches, SketchRows
from ..scoring.cutters import Choice
from ..scoring.tiles import score_stream
from .curve import MOST_QUERIES, measure
from .kernels import Scanner
from .sketcher import Sketcher

_STEP = 512  # items


def sketched(
    sketcher: Sketcher, scanner: Scanner, backend: Backend, gallery: Gallery, pairs: int | None, progress: bool
) -> Gallery:
    """As `Retriever.sketch`; pairs: None to measure nothing."""
    if gallery.sketches is None or gallery.sketches.model != sketcher.identity:
        rows = _sketches(sketcher, gallery, progress)
        if gallery.origin is None:
            gallery = replace(gallery, sketches=Sketches(sketcher.identity, sketcher.columns, None, SketchRows(rows)))
        else:
            record = SketchRecord(sketcher.identity, sketcher.columns)
            write_sketches(gallery.origin.folder, gallery.origin.description, record, rows)
            gallery = gallery.reload()
    if pairs is None:
        return gallery
    curve = measured(sketcher, scanner, backend, gallery, pairs, progress)
    assert gallery.sketches is not None
    if gallery.origin is None:
        return replace(gallery, sketches=replace(gallery.sketches, curve=curve))
    write_curve(gallery.origin.folder, gallery.origin.description, curve)
    return gallery.reload()


def measured(
    sketcher: Sketcher, scanner: Scanner, backend: Backend, gallery: Gallery, pairs: int, progress: bool
) -> Curve:
    """The recall of a gallery with sketches, with the bundle's held-out queries."""
    queries = sketcher.held_out("text" if gallery.kind == "image" else "image").first(MOST_QUERIES)
    numbers = sketcher.numbers(queries)
    assert numbers is not None  # the bundle's own items were checked when they became its sketch
    choice = Choice(DEFAULT_TILE_BYTES)
    with progress_bar(len(queries), "measuring recall", "query", progress) as bar:
        return measure(
            gallery,
            queries,
            numbers,
            lambda images, texts: score_stream(backend, choice, images, texts),
            scanner,
            pairs=pairs,
            progress=bar.update,
        )


def _sketches(sketcher: Sketcher, gallery: Gallery, progress: bool) -> NDArray[np.int8]:
    """(items, columns), of deleted items, too."""
    rows = np.empty((len(gallery), sketcher.columns), np.int8)
    with progress_bar(len(rows), f"sketching {gallery.kind}s", gallery.kind, progress) as bar:
        for start in range(0, len(rows), _STEP):
            items = np.arange(start, min(start + _STEP, len(rows)))
            rows[items] = sketcher.sketches(gallery, items)
            bar.update(len(items))
    gallery.confirm()
    return rows
