"""What the sketches keep and cost: recall of the exact search's best k among n candidates, and the time of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..runtime import Gallery, Retriever
from ..runtime.hits import Hit

K = 10
CANDIDATES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
TEXT_TO_IMAGE, IMAGE_TO_TEXT = "text → image", "image → text"
# Scores of the same pair may differ in the last bits from one tile to another.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class RecallPoint:
    """n candidates: the share of the exact best k among the hits, and the median milliseconds of a query."""

    candidates: int
    recall: float  # 0..1
    milliseconds: float


@dataclass(frozen=True)
class RecallCurve:
    """One direction in one gallery; times of single queries, from the caption or features to the hits."""

    direction: str
    items: int
    queries: int
    exact_milliseconds: float  # of exact search, median
    points: list[RecallPoint]

    def reaching(self, recall: float) -> RecallPoint | None:
        """The point of the fewest candidates with at least this recall; None if no point has it."""
        return next((point for point in self.points if point.recall >= recall), None)

    def speedup(self, recall: float) -> float | None:
        """Exact search's time ÷ that of the fewest candidates with this recall."""
        point = self.reaching(recall)
        return None if point is None else self.exact_milliseconds / point.milliseconds

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RecallCurve:
        return cls(**{**content, "points": [RecallPoint(**point) for point in content["points"]]})


def recall_curve(
    retriever: Retriever,
    direction: str,
    queries: Sequence[Any],
    gallery: Gallery,
    candidates: Sequence[int] = CANDIDATES,
    progress: Callable[[int], None] = lambda done: None,
) -> RecallCurve:
    """Search every query exactly and with each number of candidates, in turns: all share the machine's drift.

    queries: captions, or region features (r, F) each. An item is found if its exact score is at least that of the
    k-th: of items with equal scores any will do. The first query is searched once more before, to warm up.
    """
    numbers = [n for n in candidates if K <= n < len(gallery)]
    searches: list[Callable[[Any], list[Hit]]] = [lambda query: retriever.search(query, gallery, K)]
    searches += [lambda query, n=n: retriever.search(query, gallery, K, candidates=n) for n in numbers]  # type: ignore[misc]
    for search in searches:
        search(queries[0])
    found = np.zeros((len(queries), len(numbers)))
    seconds = np.zeros((len(queries), len(searches)))
    for row, query in enumerate(queries):
        hits = []
        for column, search in enumerate(searches):
            start = time.perf_counter()
            hits.append(search(query))
            seconds[row, column] = time.perf_counter() - start
        least = hits[0][-1].score - _ROUNDING
        found[row] = [sum(hit.score >= least for hit in some) / len(hits[0]) for some in hits[1:]]
        progress(row + 1)
    times = np.median(seconds, axis=0) * 1000
    points = [
        RecallPoint(n, float(recall), float(took))
        for n, recall, took in zip(numbers, found.mean(axis=0), times[1:], strict=True)
    ]
    return RecallCurve(direction, len(gallery), len(queries), float(times[0]), points)
