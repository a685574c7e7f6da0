"""What an application hands in: captions to tokens, features checked before minutes are spent on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.vocabulary import UNKNOWN, Vocabulary
from ..errors import CaanWarning, DataError, InputError

Caption = str | Sequence[str]
Tokens = tuple[list[list[int]], NDArray[np.int64]]  # token ids of each caption, and their number (captions,)


def tokenize(captions: Sequence[Caption], vocabulary: Vocabulary, limit: int) -> Tokens:
    """Token ids of each caption, cut to `limit`, and their number.

    CaanWarning for captions that were cut, and for those without a known word; it points at the caller's caller.
    Raises DataError, naming the caption, for one that is empty or not UTF-8, InputError for a string instead of a list.
    """
    if isinstance(captions, str):
        raise InputError("captions must be a list of captions, not one string; write [caption]")
    if len(captions) == 0:
        raise DataError("there is no caption; give at least one")
    result, cut, unknown = [], [], []
    for number, caption in enumerate(captions):
        try:
            ids = vocabulary.encode(caption)
        except DataError as error:
            raise DataError(f"caption {number}: {error}") from error
        if len(ids) > limit:
            cut.append(number)
            ids = [*ids[: limit - 1], ids[-1]]
        if all(i == UNKNOWN for i in ids[1:-1]):
            unknown.append(number)
        result.append(ids)
    if cut:
        message = f"{_count(cut)} longer than {limit - 2} words; the words beyond were dropped"
        warnings.warn(message, CaanWarning, stacklevel=3)
    if unknown:
        message = f"{_count(unknown)} without any word of the vocabulary; the scores mean little"
        warnings.warn(message, CaanWarning, stacklevel=3)
    return result, np.array([len(ids) for ids in result], np.int64)


def check_known(caption: Caption, vocabulary: Vocabulary) -> None:
    """Raise DataError if no word of a caption is in the vocabulary."""
    if all(number == UNKNOWN for number in vocabulary.encode(caption)[1:-1]):
        shown = caption if isinstance(caption, str) else " ".join(caption)
        raise DataError(f"no word of '{shown[:60]}' is in the model's vocabulary; try other words")


def check_features(features: NDArray[np.floating], expected: int, limit: int) -> None:
    """Raise DataError if features are not (N ≥ 1, 1 ≤ R ≤ limit, expected) float."""
    if not isinstance(features, np.ndarray) or features.ndim != 3 or not np.issubdtype(features.dtype, np.floating):
        shape = getattr(features, "shape", None)
        raise DataError(f"features must be a float array (images, regions, {expected}), not {shape or type(features)}")
    if len(features) == 0:
        raise DataError("there is no image; give at least one")
    if features.shape[2] != expected:
        raise DataError(f"features have dimension {features.shape[2]}, the model was trained on {expected}")
    if not 1 <= features.shape[1] <= limit:
        raise DataError(f"features have {features.shape[1]} regions per image, the model takes 1 to {limit}")


def image_lengths(features: NDArray[np.floating], lengths: Any) -> NDArray[np.int64]:
    """The regions of each image, (N,) int64; all of them if none are given.

    Raises DataError if `lengths` are not as many integers, or not within the features' regions.
    """
    images, regions = features.shape[:2]
    if lengths is None:
        return np.full(images, regions, np.int64)
    result = np.asarray(lengths)
    if result.shape != (images,) or not np.issubdtype(result.dtype, np.integer):
        raise DataError(f"lengths must be {images} integers, one per image, not {result.dtype} {result.shape}")
    if result.min() < 1 or result.max() > regions:
        raise DataError(
            f"lengths must be 1 to {regions}, the regions in the features, not {result.min()} to {result.max()}"
        )
    return result.astype(np.int64)


def _count(numbers: list[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:3]) + (", …" if len(numbers) > 3 else "")
    return f"caption {shown} is" if len(numbers) == 1 else f"{len(numbers)} captions ({shown}) are"
