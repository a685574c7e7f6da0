"""Search results, and selecting the best from a stream of scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .galleries.gallery import Gallery
from .inputs import Tokens
from .scoring.tiles import Scored
from .scoring.top_k import NO_ITEM, TopK
from .scoring.unscored import Unscored


@dataclass(frozen=True)
class Hit:
    """One search result.

    index: the item's position in the gallery; score: CAAN's score, higher is better; id: the item's name, or its index
    as text in a gallery without ids. `Gallery.delete` and a search's `ids` and `exclude` take the same ids.

    Hits are equal if index and score are: within a gallery the id adds nothing. A Hit can't be unpacked; use its
    fields: `[(hit.id, hit.score) for hit in hits]`.
    """

    index: int
    score: float
    id: str = field(default="", compare=False)


class Measured(NamedTuple):
    """A share, 0 to 1, measured on queries, with its 95 % interval."""

    value: float
    low: float
    high: float


class Hits(list[Hit]):
    """The hits of one query, best first: a list that knows how they were found.

    candidates: how many of the best sketches were scored exactly; None: all items. recall: the share of the exact best
    items that searches with so many candidates found when the gallery was measured; None if that is unknown, or for an
    exact search.
    """

    def __init__(self, hits: Iterable[Hit] = (), candidates: int | None = None, recall: Measured | None = None) -> None:
        super().__init__(hits)
        self.candidates, self.recall = candidates, recall


@dataclass(frozen=True)
class Shortlist:
    """How many of the best sketches to score exactly, and the measured recall of that number.

    candidates: None for all items; problem: why, if a recall was asked for and can't be promised, about "GALLERY".
    """

    candidates: int | None
    recall: Measured | None = None
    problem: str = ""


EXACT = Shortlist(None)


def best_hits(
    stream: Iterable[Scored],
    images: Gallery,
    texts: Gallery | Tokens,
    searched: Gallery,
    k: int,
    min_score: float,
    shortlist: Shortlist = EXACT,
) -> list[Hits]:
    """The k best live items for each query, best first, from a stream of scores (`score_stream`).

    searched: the one of `images` and `texts` to search in; min_score: lower scores are dropped; shortlist: how the
    scored items were chosen. Raises DataError for
    a query without a score for any item; CaanWarning for items left out because of NaN or infinity.
    """
    by_image = searched is texts
    queries = images if by_image else texts
    best = TopK(len(queries) if isinstance(queries, Gallery) else len(queries[1]), k)
    unscored = Unscored(images, texts)
    for scored in stream:
        scores = unscored.note(scored)
        if by_image:
            best.add(scored.images, scored.captions, scores)
        else:
            best.add(scored.captions, scored.images, scores.T)
    unscored.check_hits("image" if by_image else "caption")
    hits = [
        Hits(
            (
                Hit(index, score, searched.id_of(index))
                for index, score in zip(*row, strict=True)
                if index != NO_ITEM and score >= min_score
            ),
            shortlist.candidates,
            shortlist.recall,
        )
        for row in zip(best.items.tolist(), best.scores.tolist(), strict=True)
    ]
    if isinstance(queries, Gallery) and queries.deleted is not None:
        return [Hits() if is_deleted else row for row, is_deleted in zip(hits, queries.deleted, strict=True)]
    return hits


def resolve_min_score(min_score: Any) -> float:
    """The lowest score a hit may have; None: any score. Raises InputError unless it is a number."""
    if min_score is None:
        return -np.inf
    is_number = isinstance(min_score, int | float | np.integer | np.floating) and not isinstance(min_score, bool)
    if not is_number or np.isnan(min_score):
        raise InputError(f"min_score must be a number, not {min_score!r:.40}")
    return float(min_score)
