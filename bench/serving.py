"""Cost and gain of batching concurrent callers, as ratios of two ways to the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ..runtime import BatchingRetriever, Gallery, Retriever
from ..runtime.retriever import Caption
from .timing import seconds

# Concurrent queries, and a gallery so small that a single query does not use the whole machine.
CALLERS, FEW_IMAGES = 16, 50


@dataclass(frozen=True)
class ServingSpeed:
    """Throughput of concurrent single queries through a BatchingRetriever ÷ another way's, median of the rounds."""

    callers: int
    against_many: float  # ÷ search_many with the same queries, in a gallery of `images`
    images: int
    against_one_by_one: float  # ÷ search, one query after the other, in a gallery of `few_images`
    few_images: int
    queries_per_second: float  # of the concurrent ones in the gallery of `images`


def measure_serving(
    retriever: Retriever,
    gallery: Gallery,
    few: Gallery,
    captions: Sequence[Caption],
    *,
    k: int = 10,
    rounds: int = 5,
    few_rounds: int = 25,
) -> ServingSpeed:
    """One caller per caption, each in its own thread, with the BatchingRetriever's defaults.

    gallery, few: galleries of images, `few` with about FEW_IMAGES; captions: CALLERS of them. The two ways alternate,
    so that a drift of the machine affects both alike. The first round is a warm-up.
    """
    with BatchingRetriever(retriever) as batching, ThreadPoolExecutor(len(captions)) as callers:

        def together(images: Gallery) -> None:
            list(callers.map(lambda caption: batching.search(caption, images, k), captions))

        def one_by_one() -> None:
            for caption in captions:
                retriever.search(caption, few, k)

        large = _in_turns(lambda: together(gallery), lambda: retriever.search_many(captions, gallery, k), rounds)
        small = _in_turns(lambda: together(few), one_by_one, few_rounds)
    return ServingSpeed(
        callers=len(captions),
        against_many=_median_ratio(large),
        images=len(gallery),
        against_one_by_one=_median_ratio(small),
        few_images=len(few),
        queries_per_second=len(captions) / float(np.median([batched for batched, _ in large])),
    )


def _in_turns(first: Callable[[], object], second: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Seconds of both, per round; the order changes from round to round."""
    pairs = []
    for number in range(rounds + 1):
        if number % 2:
            other = seconds(second)
            pairs.append((seconds(first), other))
        else:
            pairs.append((seconds(first), seconds(second)))
    return pairs[1:]


def _median_ratio(rounds: list[tuple[float, float]]) -> float:
    """Median throughput of the first ÷ the second's."""
    return float(np.median([second / first for first, second in rounds]))
