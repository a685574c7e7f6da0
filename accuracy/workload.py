"""Inputs for measurements: a data set's features and captions, or random ones of a model's sizes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import temporary_folder
from .._text import Lines
from ..data.scan import ScanSplit, content_digest, open_split
from ..data.tokens import with_tokens
from ..errors import DataError, UnknownWordWarning
from ..runtime.retriever import Caption, Retriever

# For latency: one caption against this many images, one image against this many captions.
SEARCH_IMAGES, SEARCH_CAPTIONS = 1000, 5000

_RANDOM_SEED = 0
_RANDOM_WORDS = 12  # with <start> and <end>, T = 14, the mean of the usual data sets


@dataclass(frozen=True)
class Workload:
    """Inputs of a benchmark. `image_of_caption` is None for random inputs, which have no ground truth."""

    description: str
    features: NDArray[np.floating]  # (images, R, F)
    captions: Sequence[Caption]  # (captions,)
    image_of_caption: NDArray[np.int64] | None  # (captions,)
    lengths: NDArray[np.int64] | None = None  # (images,) regions of each; None: every region counts
    ids: Sequence[str] | None = None  # (images,)
    layout: str = ""  # how the data set's files were read, for people

    def digest(self) -> str:
        """SHA-256 of features, captions and lengths, independent of their location."""
        return content_digest(self.features, self.captions, self.lengths)

    def lengths_of(self, images: slice | NDArray[np.integer]) -> NDArray[np.int64] | None:
        """The lengths of some images."""
        return None if self.lengths is None else self.lengths[images]

    def regions(self, image: int) -> NDArray[np.floating]:
        """An image's features without padding, (r, F)."""
        features = self.features[image]
        return np.asarray(features if self.lengths is None else features[: self.lengths[image]])

    def scores(self, retriever: Retriever, *, warn: bool = False) -> NDArray[np.float32]:
        """As `score_dataset`; warn: also about unknown words, which are unknown to a reference too."""
        with warnings.catch_warnings():
            if not warn:
                warnings.simplefilter("ignore", UnknownWordWarning)
            return retriever.score_dataset(self.features, self.captions, lengths=self.lengths, progress=True)

    def fold_scores(
        self, retriever: Retriever, folds: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Scores (n, m) of each fold's images (n,) and captions (m,), and which of its images each caption has (m,).

        folds as of `metrics.five_folds`. Every image is encoded once; no other pair is scored.
        """
        assert self.image_of_caption is not None
        with temporary_folder("states", "the images' states") as folder:
            gallery = retriever.encode_images(self.features, self.lengths, folder=folder, progress=True)
            for images, captions in folds:
                part = gallery.select(images.tolist())
                scores = retriever.score_matrix(part, self._captions_at(captions), progress=True)
                yield scores[images], np.searchsorted(images, self.image_of_caption[captions])

    def subset(self, images: NDArray[np.int64]) -> Workload:
        """Some images, (n,) in increasing order, and all their captions."""
        assert self.image_of_caption is not None
        chosen = np.flatnonzero(np.isin(self.image_of_caption, images))
        return Workload(
            f"{self.description}, of these {len(images)} × {len(chosen)}",
            self.features[images],
            self._captions_at(chosen),
            np.searchsorted(images, self.image_of_caption[chosen]),
            self.lengths_of(images),
            None if self.ids is None else [self.ids[i] for i in images.tolist()],
            self.layout,
        )

    def _captions_at(self, indices: NDArray[np.int64]) -> Sequence[Caption]:
        chosen = indices.tolist()
        return self.captions.part(chosen) if isinstance(self.captions, Lines) else [self.captions[i] for i in chosen]


def data_workload(folder: Path, split: str, limit: int | None = None, tokens: Path | None = None) -> Workload:
    """As `split_workload`, for a data set's split. tokens: a file with its captions' tokens.

    Raises DataError as `open_split` and `with_tokens`.
    """
    data = open_split(folder, split)
    return split_workload(data if tokens is None else with_tokens(data, tokens), limit)


def split_workload(data: ScanSplit, limit: int | None = None) -> Workload:
    """An opened split, or `limit` evenly spaced images of it with their captions."""
    name = data.folder.resolve().name
    text = f"{name} {data.split}, {len(data.features)} images × {len(data.captions)} captions"
    whole = Workload(text, data.features, data.captions, data.image_of_caption, data.lengths, data.ids, data.layout)
    if limit is None or limit >= len(data.features):
        return whole
    return whole.subset(spread(np.arange(len(data.features)), limit))


def check_dimension(features: NDArray[np.floating], config: Mapping[str, Any], data: Path) -> None:
    """Raise DataError if features (N, R, F) do not have the dimension the model was trained on."""
    actual, expected = features.shape[2], config["region_dim"]
    if actual != expected:
        raise DataError(f"features of {data} have dimension {actual}, the model was trained on {expected}")


def spread(items: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most `count` items, evenly spaced, in order."""
    return items[np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(np.int64))]


def random_workload(config: Mapping[str, Any], words: list[str]) -> Workload:
    """Random features and captions of the model's sizes: valid for speed, meaningless for R@K."""
    generator = np.random.default_rng(_RANDOM_SEED)
    regions = config.get("num_regions", 36)
    features = generator.standard_normal((SEARCH_IMAGES, regions, config["region_dim"]), dtype=np.float32)
    captions = [list(generator.choice(words, _RANDOM_WORDS)) for _ in range(SEARCH_IMAGES)]
    text = f"random inputs, {SEARCH_IMAGES} images of {regions} regions, captions of {_RANDOM_WORDS + 2} words"
    return Workload(text, features, captions, None)
