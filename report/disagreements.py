"""The largest disagreements of a row with PyTorch: pairs by score, queries by best item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Direction = Literal["text → image", "image → text"]


@dataclass(frozen=True)
class Pair:
    """One pair with the row's score and the reference's."""

    image: int
    caption: int
    score: float
    reference: float


@dataclass(frozen=True)
class Change:
    """A query whose best item differs: the reference's choice and the row's, each with both scores."""

    direction: Direction
    before: Pair
    after: Pair

    @property
    def gap(self) -> float:
        """The reference's score margin for its own choice, which the row overturned."""
        return self.before.reference - self.after.reference


def worst_pairs(scores: NDArray[np.float32], reference: NDArray[np.float32], count: int) -> list[Pair]:
    """The pairs of two score matrices (images, captions) with the largest |Δ score|, largest first."""
    difference = np.abs(scores - reference).ravel()
    worst = np.argpartition(-difference, min(count, difference.size) - 1)[:count]
    worst = worst[np.lexsort((worst, -difference[worst]))]
    return [_pair(scores, reference, *divmod(int(flat), scores.shape[1])) for flat in worst]


def changed_best(scores: NDArray[np.float32], reference: NDArray[np.float32], count: int) -> list[Change]:
    """Queries of either direction whose best item changed, sorted by the reference's margin, largest first."""
    changes = []
    for caption, (before, after) in _moved(scores.T, reference.T):
        pairs = (_pair(scores, reference, image, caption) for image in (before, after))
        changes.append(Change("text → image", *pairs))
    for image, (before, after) in _moved(scores, reference):
        pairs = (_pair(scores, reference, image, caption) for caption in (before, after))
        changes.append(Change("image → text", *pairs))
    return sorted(changes, key=lambda change: -change.gap)[:count]


def _moved(scores: NDArray[np.float32], reference: NDArray[np.float32]) -> list[tuple[int, tuple[int, int]]]:
    """For scores (queries, items), each query whose best item changed: (query, (the reference's best, ours))."""
    before, after = reference.argmax(axis=1), scores.argmax(axis=1)
    return [(int(query), (int(before[query]), int(after[query]))) for query in np.flatnonzero(before != after)]


def _pair(scores: NDArray[np.float32], reference: NDArray[np.float32], image: int, caption: int) -> Pair:
    return Pair(image, caption, float(scores[image, caption]), float(reference[image, caption]))
