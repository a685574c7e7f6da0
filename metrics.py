"""Retrieval metrics and the comparison of two score matrices. NumPy only: shared by training, export and runtime.

R@K is the percentage of queries that find a relevant item among their first K. Ties count against the model: irrelevant
items with the same score rank first, so that constant scores retrieve nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

COCO_FOLDS = 5
_CUTS = (1, 5, 10)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Direction:
    """One direction's metrics: R@K in percent, ranks counted from 1.

    The median of an even number of ranks is rounded down, as in SCAN's evaluation: floor(median of ranks from 0) + 1.
    """

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float


@dataclass(frozen=True)
class RetrievalMetrics:
    """Both directions, and rsum, the sum of the six R@K."""

    image_to_text: Direction
    text_to_image: Direction

    @property
    def rsum(self) -> float:
        i, t = self.image_to_text, self.text_to_image
        return i.r1 + i.r5 + i.r10 + t.r1 + t.r5 + t.r10

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rsum": self.rsum}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RetrievalMetrics:
        """The inverse of `as_dict`."""
        return cls(Direction(**content["image_to_text"]), Direction(**content["text_to_image"]))


def retrieval_metrics(
    scores: NDArray[np.floating],
    image_of_caption: NDArray[np.integer] | None = None,
    relevance: NDArray[np.bool_] | None = None,
) -> RetrievalMetrics:
    """R@1/5/10, median and mean rank in both directions.

    scores (images, captions) float. Ground truth is either image_of_caption (captions,) int, each caption's image, or
    relevance (images, captions) bool for many-to-many truth; without either, captions are in the images' order, the
    same number per image (the 1-to-5 protocol). The best-ranked relevant item counts. Raises DataError for a NaN score,
    ground truth of the wrong shape, or a query without a relevant item.
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or 0 in scores.shape:
        raise DataError(f"scores must be (images, captions) with at least one of each, not {scores.shape}")
    if np.isnan(scores).any():
        raise DataError("some scores are NaN; ranks would mean nothing")
    if relevance is None:
        relevance = _relevance(scores.shape, image_of_caption)
    if relevance.shape != scores.shape:
        raise DataError(f"the ground truth is {relevance.shape}, the scores are {scores.shape}")
    return RetrievalMetrics(_direction(scores, relevance), _direction(scores.T, relevance.T))


def five_fold_metrics(
    scores: NDArray[np.floating], image_of_caption: NDArray[np.integer] | None = None
) -> RetrievalMetrics:
    """MS-COCO's 1K protocol: five folds of a fifth of the images with their captions, averaged.

    scores (5·n, captions); image_of_caption (captions,) int, by default the same number per image in the images'
    order. Raises DataError if they don't divide evenly.
    """
    images, captions = scores.shape
    if image_of_caption is None:
        if captions % images:
            raise DataError(f"{images} images × {captions} captions don't divide into {COCO_FOLDS} folds")
        image_of_caption = np.arange(captions) // (captions // images)
    folds = five_folds(images, image_of_caption)
    return mean_metrics([retrieval_metrics(scores[np.ix_(i, c)], image_of_caption[c] - i[0]) for i, c in folds])


def five_folds(images: int, image_of_caption: NDArray[np.integer]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Each fold's images, consecutive, and their captions; image_of_caption (captions,) int.

    Raises DataError if the images don't divide evenly.
    """
    if images % COCO_FOLDS:
        raise DataError(f"{images} images × {len(image_of_caption)} captions don't divide into {COCO_FOLDS} folds")
    parts = np.arange(images).reshape(COCO_FOLDS, -1)
    return [(part, np.flatnonzero(np.isin(image_of_caption, part))) for part in parts]


def mean_metrics(folds: Sequence[RetrievalMetrics]) -> RetrievalMetrics:
    """Every number's mean over the folds."""
    return RetrievalMetrics(_mean([f.image_to_text for f in folds]), _mean([f.text_to_image for f in folds]))


@dataclass(frozen=True)
class Parity:
    """The difference of a score matrix from the reference's."""

    max_abs: float  # largest |Δ score|
    mean_abs: float
    top10_overlap: float  # percentage of the reference's top ten captions per image that are kept
    rank_flips: int  # queries of either direction with a different best item
    delta_rsum: float
    delta_rsum_interval: tuple[float, float]  # 95 %, bootstrap over queries


def parity(
    scores: NDArray[np.floating], reference: NDArray[np.floating], image_of_caption: NDArray[np.integer]
) -> Parity:
    """Compare scores (images, captions) with the reference's of the same shape on the same data.

    Raises DataError if the shapes differ or a score is NaN.
    """
    if scores.shape != reference.shape:
        raise DataError(f"scores {scores.shape} and reference {reference.shape} have different shapes")
    for matrix in (scores, reference):
        if np.isnan(matrix).any():
            raise DataError("some scores are NaN; ranks would mean nothing")
    relevance = _relevance(scores.shape, image_of_caption)
    changes = [  # per direction (queries, 3): each query's change of R@1, R@5 and R@10: -1, 0 or 1
        _hits(ours, truth).astype(np.float64) - _hits(theirs, truth)
        for ours, theirs, truth in ((scores, reference, relevance), (scores.T, reference.T, relevance.T))
    ]
    difference = np.abs(scores.astype(np.float64) - reference)
    return Parity(
        max_abs=float(difference.max()),
        mean_abs=float(difference.mean()),
        top10_overlap=top10_overlap(scores, reference),
        rank_flips=sum(int((scores.argmax(axis) != reference.argmax(axis)).sum()) for axis in (0, 1)),
        delta_rsum=sum(100.0 * float(change.mean(axis=0).sum()) for change in changes),
        delta_rsum_interval=_bootstrap([change.sum(axis=1) for change in changes]),
    )


def top10_overlap(scores: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Percentage of the reference's ten best items per query that are among the ten best by scores (queries, items)."""
    k = min(10, scores.shape[1])
    best, best_reference = (np.argsort(-s, axis=1, kind="stable")[:, :k] for s in (scores, reference))
    shared = sum(len(np.intersect1d(a, b)) for a, b in zip(best, best_reference, strict=True))
    return 100.0 * shared / best.size


def _bootstrap(changes: list[NDArray[np.float64]]) -> tuple[float, float]:
    """95 % percentile interval, in percent, of the sum of the means of `changes` (queries,), resampled independently.

    Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    generator = np.random.default_rng(0)
    total = np.zeros(_RESAMPLES)
    for change in changes:
        # A resample is the number of draws of each query. Unchanged queries can share one count.
        moved = change[change != 0]
        shares = np.full(len(moved) + 1, 1 / len(change))
        shares[-1] = max(0.0, 1.0 - len(moved) / len(change))
        drawn = generator.multinomial(len(change), shares, size=_RESAMPLES)
        total += 100.0 * (drawn[:, :-1] @ moved) / len(change)
    low, high = np.percentile(total, (2.5, 97.5))
    return float(low), float(high)


def _relevance(shape: tuple[int, ...], image_of_caption: NDArray[np.integer] | None) -> NDArray[np.bool_]:
    images, captions = shape
    if image_of_caption is None:
        if captions % images:
            raise DataError(f"{captions} captions don't divide among {images} images; pass image_of_caption")
        image_of_caption = np.arange(captions) // (captions // images)
    if image_of_caption.shape != (captions,):
        raise DataError(f"image_of_caption is {image_of_caption.shape}, expected ({captions},)")
    return np.asarray(np.arange(images)[:, None] == image_of_caption)


def _direction(scores: NDArray[np.floating], relevance: NDArray[np.bool_]) -> Direction:
    """scores, relevance (queries, items)."""
    ranks = _ranks(scores, relevance)
    r1, r5, r10 = (100.0 * float((ranks <= k).mean()) for k in _CUTS)
    return Direction(r1, r5, r10, float(np.floor(np.median(ranks))), float(ranks.mean()))


def _hits(scores: NDArray[np.floating], relevance: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """scores, relevance (queries, items) → (queries, 3): whether the query counts for R@1, R@5, R@10."""
    return _ranks(scores, relevance)[:, None] <= np.array(_CUTS)


def _ranks(scores: NDArray[np.floating], relevance: NDArray[np.bool_]) -> NDArray[np.int64]:
    """scores, relevance (queries, items) → rank of the best relevant item, from 1, (queries,)."""
    if not relevance.any(axis=1).all():
        raise DataError(f"query {int(relevance.any(axis=1).argmin())} has no relevant item in the ground truth")
    best = np.where(relevance, scores, -np.inf).max(axis=1, keepdims=True)  # (queries, 1)
    ranks: NDArray[np.int64] = 1 + ((scores >= best) & ~relevance).sum(axis=1)
    return ranks


def _mean(folds: list[Direction]) -> Direction:
    rows = np.array([[f.r1, f.r5, f.r10, f.median_rank, f.mean_rank] for f in folds])
    return Direction(*rows.mean(axis=0).tolist())
