"""Recall of searches among the best sketches: measured with held-out queries, and used to choose how many to score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil

import numpy as np
from numpy.typing import NDArray

from ..galleries.description import Curve
from ..galleries.gallery import Gallery
from ..hits import EXACT, Measured, Shortlist
from ..scoring.tiles import Scored
from .kernels import Scanner

# k for which recall is measured, as far as the gallery has ten times as many items.
KS = (1, 10, 100)
# Pairs scored exactly to measure a curve, and how many queries they are spread over: a larger gallery is measured with
# fewer queries, and beyond that on a sample of its items.
PAIRS, MOST_QUERIES, FEWEST_QUERIES = 4_000_000, 200, 50
# Successive numbers of candidates differ by this factor.
_RATIO = 2**0.25
_RESAMPLES = 1000
# Queries whose scores, one per item, are in memory at a time.
_AT_ONCE = 16
# Once the gallery has grown by this factor since it was measured, the curve is stale.
STALE = 1.5

Score = Callable[[Gallery, Gallery], Iterator[Scored]]  # images, texts


def choose(curve: Curve | None, live: int, k: int, recall: float) -> Shortlist:
    """The fewest candidates with which searches for k hits had this recall (0 to 1), for a gallery of `live` items."""
    if recall >= 1:
        return EXACT
    if curve is None:
        return Shortlist(
            None, problem="GALLERY has no measured recall; searched exactly; measure it: caan sketch GALLERY --measure"
        )
    rows = [row for row, measured in enumerate(curve.k) if measured >= k]
    if not rows:
        return Shortlist(None, problem=f"recall on GALLERY was measured up to k = {curve.k[-1]}; searched exactly")
    row = rows[0]
    columns = [column for column, value in enumerate(curve.recall[row]) if value >= recall]
    if not columns:
        return Shortlist(
            None,
            problem=f"the recall measured on GALLERY ends below {recall:g} at k = {curve.k[row]}; searched exactly",
        )
    column = columns[0]
    # A share of the items, not a number of them, where fewer were measured than there are. That is careful: the number
    # needed grows slower than the gallery.
    candidates = ceil(curve.candidates[column] * max(1.0, live / curve.sample))
    measured = Measured(curve.recall[row][column], curve.low[row][column], curve.high[row][column])
    return Shortlist(max(k, candidates), measured) if candidates < live else EXACT


def recall_with(curve: Curve | None, live: int, k: int, candidates: int) -> Measured | None:
    """The recall measured with at most so many candidates; None if it was not measured."""
    if curve is None:
        return None
    rows = [row for row, measured in enumerate(curve.k) if measured >= k]
    allowed = candidates / max(1.0, live / curve.sample)
    columns = [column for column, number in enumerate(curve.candidates) if number <= allowed]
    if not rows or not columns:
        return None
    row, column = rows[0], columns[-1]
    return Measured(curve.recall[row][column], curve.low[row][column], curve.high[row][column])


def is_stale(curve: Curve, live: int) -> bool:
    """Whether the gallery has grown too much since the curve was measured."""
    return live >= STALE * curve.items


def measure(
    gallery: Gallery,
    queries: Gallery,
    numbers: NDArray[np.int16],
    score: Score,
    scanner: Scanner,
    *,
    pairs: int = PAIRS,
    progress: Callable[[int], object] = lambda queries: None,
) -> Curve:
    """Measure a gallery with sketches against exact search; the same inputs give the same curve.

    queries: items of the other kind, held out from everything the sketches were made with; numbers (Q, columns): their
    integers; pairs: about how many to score exactly.
    """
    assert gallery.sketches is not None
    live = gallery.live
    count = min(len(queries), MOST_QUERIES, max(FEWEST_QUERIES, pairs // len(live)))
    sample = min(len(live), max(pairs // count, 1))
    random = np.random.default_rng(0)
    items = live if sample == len(live) else np.sort(random.choice(live, sample, replace=False))
    chosen = np.sort(random.choice(len(queries), count, replace=False))
    rows = gallery.sketches.read()[: len(gallery)][items]
    ks = tuple(k for k in KS if 10 * k <= sample) or (1,)
    grid = _grid(sample)
    recalls = np.empty((count, len(ks), len(grid)), np.float32)
    view = gallery.narrowed(items)
    position = np.full(len(gallery), -1, np.int64)
    position[items] = np.arange(sample)
    for start in range(0, count, _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        exact = _exact(view, queries.narrowed(part), part, position, sample, score)
        order, _ = scanner.best(rows, numbers[part], sample)
        for number, (scores, ranked) in enumerate(zip(exact, order, strict=True), start):
            recalls[number] = _recalls(scores, ranked, ks, grid)
        progress(len(part))
    low, high = _interval(recalls)
    return Curve(
        items=len(live),
        sample=sample,
        queries=count,
        k=ks,
        candidates=tuple(grid.tolist()),
        recall=_table(recalls.mean(axis=0, dtype=np.float64)),
        low=_table(low),
        high=_table(high),
    )


def _exact(
    view: Gallery,
    queries: Gallery,
    part: NDArray[np.int64],
    position: NDArray[np.int64],
    sample: int,
    score: Score,
) -> NDArray[np.float32]:
    """Exact scores (queries, sample)."""
    images, texts = (view, queries) if view.kind == "image" else (queries, view)
    row = np.zeros(int(part[-1]) + 1, np.int64)
    row[part] = np.arange(len(part))
    scores = np.empty((len(part), sample), np.float32)
    for block in score(images, texts):
        if view.kind == "image":
            scores[np.ix_(row[block.captions], position[block.images])] = block.scores.T
        else:
            scores[np.ix_(row[block.images], position[block.captions])] = block.scores
    return scores


def _recalls(
    scores: NDArray[np.float32], ranked: NDArray[np.int64], ks: tuple[int, ...], grid: NDArray[np.int64]
) -> NDArray[np.float32]:
    """(ks, grid): the share of a query's k best items among its first candidates.

    Every item that scores as high as the k-th best counts as one of them.
    """
    result = np.empty((len(ks), len(grid)), np.float32)
    for row, k in enumerate(ks):
        threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
        found = np.cumsum(scores[ranked] >= threshold)
        result[row] = np.minimum(found[grid - 1], k) / k
    return result


def _grid(items: int) -> NDArray[np.int64]:
    """Increasing numbers of candidates from 1 to `items`."""
    steps = int(np.log(items) / np.log(_RATIO)) + 1
    numbers = np.ceil(_RATIO ** np.arange(steps)).astype(np.int64)
    return np.unique(np.append(numbers[numbers < items], items))


def _interval(recalls: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % interval of the mean over queries, by bootstrap: recalls (queries, …) → low and high (…)."""
    queries = len(recalls)
    weights = np.random.default_rng(1).multinomial(queries, np.full(queries, 1 / queries), _RESAMPLES) / queries
    means = np.tensordot(weights, recalls.astype(np.float64), axes=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return low, high


def _table(values: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, 5) for value in row) for row in values.tolist())
