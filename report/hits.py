"""The best pictures of a few captions, and what CAAN looked at in each: regions shaded by av, words by au."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bench.rows import Row
from ..bench.run import BenchResult
from ..errors import CaanError, DataError
from ..pictures.regions import shade_regions
from ..runtime import Retriever
from .find_pictures import Thumbnail, data_uri
from .source import Source

QUERIES, HITS = 4, 5


@dataclass(frozen=True)
class Word:
    """A word of a query: its share of the attention au, and that share relative to the strongest word's."""

    text: str
    known: bool
    share: float  # of 1
    strength: float  # 0 to 1


@dataclass(frozen=True)
class ShownHit:
    """One hit. `shaded` and `words` are None and empty where the attention is not to be had."""

    score: float
    relevant: bool
    plain: Thumbnail
    shaded: Thumbnail | None
    words: list[Word]


@dataclass(frozen=True)
class Query:
    """A caption, the rank of its own picture, and its best hits."""

    caption: str
    rank: int
    hits: list[ShownHit]


@dataclass(frozen=True)
class Hits:
    """A few captions' best hits by one row's scores; `note` says why attention is not shown, if it isn't."""

    row: str
    queries: list[Query]
    note: str = ""


def best_hits(result: BenchResult, bundle: Path, source: Source) -> Hits | None:
    """The five best pictures of four captions, spread evenly over the data set; None if no row has scores.

    By the scores of ONNX Runtime in FP32 if it ran, else of the first row that has any.
    """
    row = _row(result)
    if row is None or row.scores is None:
        return None
    scores = row.scores  # (images, captions)
    attention = _Attention(source, bundle)
    queries = []
    for caption in _spread(scores.shape[1], QUERIES):
        best = np.argsort(-scores[:, caption], kind="stable")[:HITS].tolist()
        shown = []
        for image in best:
            shaded, words = attention.of(image, caption)
            shown.append(
                ShownHit(
                    float(scores[image, caption]),
                    source.is_relevant(image, caption),
                    source.thumbnail(image),
                    shaded,
                    words,
                )
            )
        queries.append(Query(source.split.captions[caption], _rank(scores, source, caption), shown))
    return Hits(row.name, queries, attention.reason)


class _Attention:
    """Asks the bundle what it looked at, until it can't say: then `reason` tells why."""

    def __init__(self, source: Source, bundle: Path) -> None:
        self.source, self.reason = source, ""
        try:
            self.retriever = Retriever.open(bundle, "onnxruntime", device="cpu")
        except CaanError as error:
            self.reason = str(error)

    def of(self, image: int, caption: int) -> tuple[Thumbnail | None, list[Word]]:
        """(the picture shaded by av, the words with au) of a pair; (None, []) where they are not to be had."""
        if self.reason:
            return None, []
        split = self.source.split
        try:
            explained = self.retriever.explain(np.asarray(split.features[image]), split.captions[caption])
        except DataError:  # this caption has no known word, say: the next one may
            return None, []
        except CaanError as error:
            self.reason = str(error)
            return None, []
        strongest = float(explained.au.max())
        words = [
            Word(word, known, float(share), float(share) / strongest)
            for word, known, share in zip(explained.words, explained.known, explained.au, strict=True)
        ]
        return self._shaded(image, explained.av), words

    def _shaded(self, image: int, weights: NDArray[np.float32]) -> Thumbnail | None:
        source, name = self.source, self.source.name_of(image)
        if source.boxes is None or source.thumbnail(image).uri is None or source.pictures is None:
            return None
        return Thumbnail(name, data_uri(shade_regions(source.pictures.picture(name), source.boxes[image], weights)))


def _row(result: BenchResult) -> Row | None:
    scored = [row for row in result.rows if row.scores is not None]
    usual = [row for row in scored if row.spec.backend == "onnxruntime" and row.spec.precision == "fp32"]
    return next(iter([*usual, *scored]), None)


def _rank(scores: NDArray[np.float32], source: Source, caption: int) -> int:
    """The rank of the caption's own picture, from 1; ties count against it, as in R@K."""
    own = int(source.split.image_of_caption[caption])
    return int((scores[:, caption] >= scores[own, caption]).sum())


def _spread(items: int, count: int) -> list[int]:
    """The middles of `count` equal parts."""
    return sorted({int((n + 0.5) * items / count) for n in range(count)})
