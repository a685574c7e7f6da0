"""The top pictures of a few captions, and what CAAN attended to in each: regions shaded by av, words by au."""

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
    """A query's word: its share of the attention au, and that share relative to the strongest word's."""

    text: str
    known: bool
    share: float  # of 1
    strength: float  # 0 to 1


@dataclass(frozen=True)
class ShownHit:
    """One hit. Without attention, `shaded` is None and `words` is empty."""

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
    """Top hits of a few captions by one row's scores; `note` is the reason if attention is not shown."""

    row: str
    queries: list[Query]
    note: str = ""


def best_hits(result: BenchResult, bundle: Path, source: Source) -> Hits | None:
    """The top five pictures of four captions, spread evenly over the data set; None if no row has scores.

    Scores are ONNX Runtime's in FP32 if it ran, else the first row's that has any.
    """
    row = _row(result)
    if row is None or row.scores is None:
        return None
    scores = row.scores  # (images, captions)
    attention = _Attention(source, bundle)
    queries = []
    for caption in _spread(scores.shape[1], QUERIES):
        best = np.argsort(-scores[:, caption], kind="stable")[:HITS].tolist()
        top = []
        for image in best:
            shaded, words = attention.of(image, caption)
            top.append(
                ShownHit(
                    float(scores[image, caption]),
                    source.is_relevant(image, caption),
                    source.thumbnail(image),
                    shaded,
                    words,
                )
            )
        queries.append(Query(source.split.captions[caption], _rank(scores, source, caption), top))
    return Hits(row.name, queries, attention.reason)


class _Attention:
    """Explains pairs with the bundle. After a failure it stops, and `reason` holds the cause."""

    def __init__(self, source: Source, bundle: Path) -> None:
        self.source, self.reason = source, ""
        try:
            self.retriever = Retriever.open(bundle, "onnxruntime", device="cpu")
        except CaanError as error:
            self.reason = str(error)

    def of(self, image: int, caption: int) -> tuple[Thumbnail | None, list[Word]]:
        """(the picture shaded by av, the words with au) of a pair; (None, []) if unavailable."""
        if self.reason:
            return None, []
        split = self.source.split
        try:
            explained = self.retriever.explain(np.asarray(split.regions(image)), split.captions[caption])
        except DataError:  # such as a caption without a known word; others may work
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
        boxes = source.boxes[image][: len(weights)]  # without padding
        return Thumbnail(name, data_uri(shade_regions(source.pictures.picture(name), boxes, weights)))


def _row(result: BenchResult) -> Row | None:
    scored = [row for row in result.rows if row.scores is not None]
    preferred = [row for row in scored if row.spec.backend == "onnxruntime" and row.spec.precision == "fp32"]
    return next(iter([*preferred, *scored]), None)


def _rank(scores: NDArray[np.float32], source: Source, caption: int) -> int:
    """The rank of the caption's own picture, from 1; ties count against it, as in R@K."""
    target = int(source.split.image_of_caption[caption])
    return int((scores[:, caption] >= scores[target, caption]).sum())


def _spread(items: int, count: int) -> list[int]:
    """The centres of `count` equal parts of range(items)."""
    return sorted({int((n + 0.5) * items / count) for n in range(count)})
