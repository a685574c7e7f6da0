"""The image-caption pairs for calibration, and the images held out.

In production, one in N of the pairs that the scorer sees on N images is a match. Calibration samples images and
captions with the same share of matches, but at least a handful: on large data sets none would be drawn, and matches
have the sharpest attention.
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

# A pair's smallest tensor, the attention over words, has about ten values: with 1,000 pairs or more, every tensor's
# 99.99th percentile differs from its maximum.
MIN_PAIRS = 1000
# Half of the images are held out, and R@10 among fewer than 32 says little about accuracy.
MIN_IMAGES = 64
_HANDFUL = 8


@dataclass(frozen=True)
class SampleSize:
    """Upper limits of the sample."""

    images: int = 64
    pairs: int = 4096


@dataclass(frozen=True, eq=False)
class Sample:
    """All pairs of `images` with `captions`; indices into the data set."""

    images: Indices  # (images,)
    captions: Indices  # (captions,)
    positives: int  # pairs whose caption describes the image
    held_out: Indices  # images that are not in the sample and have no caption in it

    @property
    def pairs(self) -> int:
        return len(self.images) * len(self.captions)


def draw_sample(dataset: ScanSplit, seed: int, size: SampleSize | None = None) -> Sample:
    """Draw calibration pairs from a data set, deterministically for the same data, seed and size.

    A quarter of the images, at most `size.images`, are paired with captions of their own and captions of another
    quarter, at their natural lengths: at most `size.pairs` pairs, 64 × 64 by default. At least half of the images are
    held out. Raises DataError, with the available and required numbers, for fewer than 64 images or 1,000 pairs.
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
    matching_pool, other_pool = (
        np.flatnonzero(np.isin(dataset.image_of_caption, chosen))
        for chosen in (images, order[len(images) : len(images) + total // 4])
    )
    share = len(images) / total  # of captions of these images, so that one pair in `total` matches
    captions = min(size.pairs // len(images), int(len(other_pool) / (1 - share)))
    positives = min(max(round(share * captions), _HANDFUL), captions, len(matching_pool))
    if len(images) * captions < MIN_PAIRS:
        raise DataError(
            f"{name} has {total} images and {len(dataset.captions)} captions, which give {len(images) * captions}"
            f" pairs, too few: {need}"
        )
    matching = generator.choice(matching_pool, positives, replace=False)
    others = generator.choice(other_pool, captions - positives, replace=False)
    drawn = np.concatenate([matching, others])
    used = np.concatenate([images, dataset.image_of_caption[drawn]])
    # In the data set's order, for sequential reads
    return Sample(np.sort(images), np.sort(drawn), positives, np.setdiff1d(np.arange(total), used))


def equal_lengths(lengths: Indices) -> list[Indices]:
    """Items' lengths (items,) → positions grouped by length, shortest first."""
    return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]


def tiles(regions: Indices, words: Indices, size: TileSize) -> Iterator[tuple[Indices, Indices]]:
    """Tiles of all pairs of images (images,) and captions (captions,) of these lengths, as (image, caption) positions.

    All items of a tile have the same length: the scorer masks padding, but a histogram would count it.
    """
    for captions in equal_lengths(words):
        for images in equal_lengths(regions):
            for c in range(0, len(captions), size.captions):
                for i in range(0, len(images), size.images):
                    yield images[i : i + size.images], captions[c : c + size.captions]
