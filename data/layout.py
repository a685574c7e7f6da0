"""Which rows of a features file are which image, and which caption belongs to which image.

SCAN's files repeat every image once per caption; others hold it once. Nothing in a file says which, so rows are
compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._text import Lines
from ..errors import DataError

CAPTIONS_PER_IMAGE = 5
# Groups of rows to compare, to distinguish "every image repeated" from "one caption per image".
_PROBED_GROUPS = 64
# No data set has more captions per image; COCO's has up to seven.
_MOST_CAPTIONS = 100
# Copies of an image may differ by rounding, as when they were encoded in other batches or kept as float16, whose step
# is 1e-3 of a value. Features of two pictures differ by about their own size.
_ROUNDING = 1e-3

Starts = NDArray[np.int64]  # (images,) the first row or caption of each image


@dataclass(frozen=True, eq=False)
class Layout:
    """How the files of a split belong together."""

    rows: slice | NDArray[np.int64]  # the row of each image in files that may repeat it
    image_of_caption: NDArray[np.int64]  # (captions,)
    description: str


def find_layout(
    features: NDArray[np.floating],
    captions: int,
    ids: Lines | None = None,
    lengths: NDArray[np.integer] | None = None,
) -> Layout | None:
    """The layout of features (rows, R, F) with this many captions; None if the numbers don't fit together.

    ids: one name per image, or per caption the name of its image, which then decides; lengths: regions per row or per
    image, beyond which nothing is compared. The captions of an image are consecutive. Raises DataError if ids name the
    image of each caption, but not that many images, or one in two places.
    """
    rows, each_caption = len(features), np.arange(captions, dtype=np.int64)
    starts = _starts(ids, captions)
    if ids is not None and starts is not None and (rows != captions or _is_repeated(features, starts, lengths)):
        _check_starts(ids, starts, rows if rows != captions else len(starts))
        counts = np.diff(starts, append=captions)
        image_of_caption = np.repeat(np.arange(len(starts), dtype=np.int64), counts)
        low, high = int(counts.min()), int(counts.max())
        number = f"{low}" if low == high else f"{low} to {high}"
        if rows == captions:
            where = slice(None, None, low) if low == high else starts
            return Layout(
                where, image_of_caption, f"every image repeated {number} times, as its ids, one row per caption"
            )
        return Layout(slice(None), image_of_caption, f"one row per image, {number} captions each by the ids")
    if rows == captions:
        each = _repetition(features, lengths)
        if each == 1:
            return Layout(slice(None), each_caption, "one row and one caption per image")
        text = f"every image repeated {each} times, one row per caption"
        return Layout(slice(None, None, each), each_caption // each, text)
    if captions % rows:
        return None
    each = captions // rows
    return Layout(slice(None), each_caption // each, f"one row per image, {each} captions each")


def same_up_to_rounding(first: NDArray[np.floating], second: NDArray[np.floating]) -> bool:
    """Whether two arrays of one shape hold the same values up to rounding; NaN equals NaN."""
    if np.array_equal(first, second):
        return True
    a, b = (np.asarray(values, np.float64) for values in (first, second))
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    a, b = a[finite] / 2, b[finite] / 2  # halves: a difference can't overflow
    larger = np.maximum(np.abs(a), np.abs(b))
    top = larger.max(initial=0.0)
    typical = top * np.sqrt(np.mean(np.square(larger / top))) if top else 0.0  # scaled first: nor can a square
    return bool((np.abs(a - b) <= _ROUNDING * (larger + typical)).all())


def _starts(ids: Lines | None, captions: int) -> Starts | None:
    """The first caption of each image, where ids name the image of each caption; None where they don't."""
    if ids is None or len(ids) != captions:
        return None
    starts = np.array([n for n, name in enumerate(ids) if n == 0 or name != ids[n - 1]], np.int64)
    return None if len(starts) == captions else starts


def _check_starts(ids: Lines, starts: Starts, images: int) -> None:
    first: dict[str, int] = {}
    for start in starts.tolist():
        earlier = first.setdefault(ids[start], start)
        if earlier != start:
            raise DataError(
                f"{ids.place(start)} names '{ids[start][:80]}' again, after line {earlier + 1}; the captions of an"
                " image must be consecutive"
            )
    if len(starts) != images:
        raise DataError(f"{ids.name} names {len(starts)} images, the features hold {images}")


def _repetition(features: NDArray[np.floating], lengths: NDArray[np.integer] | None) -> int:
    """How many rows in sequence hold each image."""
    rows = len(features)

    def repeats(each: int) -> bool:
        return rows % each == 0 and _is_repeated(features, np.arange(0, rows, each), lengths)

    if repeats(CAPTIONS_PER_IMAGE):
        return CAPTIONS_PER_IMAGE
    most = min(rows, _MOST_CAPTIONS)
    run = next((n for n in range(1, most) if not _same(features, 0, n, 0, lengths, rows)), most)
    return run if run > 1 and repeats(run) else 1


def _is_repeated(features: NDArray[np.floating], starts: Starts, lengths: NDArray[np.integer] | None) -> bool:
    """Whether the rows from each start to the next hold the same image; only some groups are read."""
    ends = np.append(starts[1:], len(features))
    several = np.flatnonzero(ends - starts > 1)
    groups = several[np.unique(np.linspace(0, len(several) - 1, _PROBED_GROUPS).astype(int))].tolist()
    return all(
        _same(features, int(starts[group]), row, group, lengths, len(starts))
        for group in groups
        for row in range(int(starts[group]) + 1, int(ends[group]))
    )


def _same(
    features: NDArray[np.floating],
    first: int,
    second: int,
    image: int,
    lengths: NDArray[np.integer] | None,
    images: int,
) -> bool:
    """Whether two rows hold the same regions; with lengths, padding doesn't count."""
    regions = features.shape[1]
    if lengths is not None and len(lengths) == len(features):
        if lengths[first] != lengths[second]:
            return False
        regions = int(lengths[first])
    elif lengths is not None and len(lengths) == images:
        regions = int(lengths[image])
    return same_up_to_rounding(features[first, :regions], features[second, :regions])
