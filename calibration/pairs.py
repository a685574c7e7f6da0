"""The image-caption pairs that ranges are calibrated on, and what is held out from them.

In production a query meets its own items among all the others: of the pairs that the scorer sees on N images, one in N
is a match. Calibration draws images and captions so that its pairs hold as many, but never fewer than a handful: on
large data sets none would be drawn, and a match attends most sharply.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.scan import ScanSplit
from ..errors import DataError
from ..tiling import TileSize

Indices = NDArray[np.int64]

# The smallest tensor of a pair, the attention over its words, has about ten values: from 1,000 pairs on, the 99.99th
# percentile of every tensor is something else than its maximum.
MIN_PAIRS = 1000
# Half of the images are held out, and R@10 among fewer than 32 would say little about a precision's accuracy.
MIN_IMAGES = 64
_HANDFUL = 8


@dataclass(frozen=True)
class SampleSize:
    """How much is drawn at most."""

    images: int = 64
    pairs: int = 4096


@dataclass(frozen=True, eq=False)
class Sample:
    """Every one of `images` makes a pair with every one of `captions`; indices into the data set."""

    images: Indices  # (images,)
    captions: Indices  # (captions,)
    positives: int  # pairs whose caption describes the image
    held_out: Indices  # images that neither are in the sample nor have a caption in it

    @property
    def pairs(self) -> int:
        return len(self.images) * len(self.captions)


def draw_sample(dataset: ScanSplit, seed: int, size: SampleSize | None = None) -> Sample:
    """Draw calibration pairs from a data set; the same ones for the same data, seed and size.

    A quarter of the images, at most `size.images`, meet captions of their own and captions that are drawn from
    another quarter, in their natural lengths: at most `size.pairs` pairs, 64 × 64 by default. At least half of the
    images are held out. Raises DataError, saying how much there is and how much is needed, if the data set has fewer
    than 64 images or gives fewer than 1,000 pairs.
    """
    size = size or SampleSize()
    total = len(dataset.features)
    name = f"{dataset.folder} ({dataset.split})"
    need = f"calibration needs at least {MIN_IMAGES} images and {MIN_PAIRS:,} pairs, and holds half of the images out"
    if total < MIN_IMAGES:
        raise DataError(f"{name} has {total} images and {len(dataset.captions)} captions, too few: {need}")
    generator = np.random.default_rng(seed)
    order = generator.permutation(total)
    images = order[: min(size.images, total // 4)]
    own, foreign = (
        np.flatnonzero(np.isin(dataset.image_of_caption, chosen))
        for chosen in (images, order[len(images) : len(images) + total // 4])
    )
    share = len(images) / total  # of captions that describe one of the images: then one pair in `total` is a match
    captions = min(size.pairs // len(images), int(len(foreign) / (1 - share)))
    positives = min(max(round(share * captions), _HANDFUL), captions, len(own))
    if len(images) * captions < MIN_PAIRS:
        raise DataError(
            f"{name} has {total} images and {len(dataset.captions)} captions, which give {len(images) * captions}"
            f" pairs, too few: {need}"
        )
    matching = generator.choice(own, positives, replace=False)
    others = generator.choice(foreign, captions - positives, replace=False)
    drawn = np.concatenate([matching, others])
    touched = np.concatenate([images, dataset.image_of_caption[drawn]])
    # In the data set's order: it is read from the disk
    return Sample(np.sort(images), np.sort(drawn), positives, np.setdiff1d(np.arange(total), touched))


def equal_lengths(lengths: Indices) -> list[Indices]:
    """Captions' lengths (captions,) → positions of those of one length, shortest first."""
    return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]


def tiles(images: int, lengths: Indices, size: TileSize) -> Iterator[tuple[Indices, Indices]]:
    """Every pair of `images` images with captions of these lengths (captions,), as (image, caption) positions.

    All captions of a tile have one length: the scorer masks padding, but a histogram would count it.
    """
    for group in equal_lengths(lengths):
        for c in range(0, len(group), size.captions):
            for i in range(0, images, size.images):
                yield np.arange(i, min(i + size.images, images)), group[c : c + size.captions]
