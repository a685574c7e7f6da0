"""Input from the application: captions to tokens, and features checked before any expensive work."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .._text import Lines
from ..data.vocabulary import SPECIAL_TOKENS, Vocabulary
from ..errors import BundleError, CaanWarning, DataError, InputError
from .backends.contract import Backend
from .galleries.description import Kind
from .galleries.gallery import Gallery
from .gather import matrix_widths
from .lists import Caption, Query, TokenizedCaption, captions_of, described, integers_of, is_features
from .unknown_words import UnknownWords

# With <start> and <end>, T = 14, the mean of the usual data sets.
RANDOM_WORDS = 12
DEFAULT_HITS = 10
Tokens = tuple[list[list[int]], NDArray[np.int64]]  # token ids of each caption, and their number (captions,)


def tokenize(
    captions: Sequence[Caption],
    vocabulary: Vocabulary,
    limit: int,
    stacklevel: int = 3,
    unknown_words: UnknownWords | None = None,
    *,
    searching: bool = False,
) -> Tokens:
    """Token ids of each caption, truncated to `limit`, and their number.

    searching: a caption without a known word is an error, since its ranking would be arbitrary; the message names the
    caption only if there are several.

    CaanWarning for truncated captions, for captions without a known word, and, through `unknown_words`, for unknown
    words; by default it points at the caller's caller. Captions given as `Lines` are named by file and line.
    Raises DataError, naming the caption, if it is empty, not UTF-8, or neither text nor tokens; InputError if
    `captions` is not a list.
    """
    captions = captions_of(captions)
    if not captions:
        raise DataError("there is no caption; give at least one")
    place = captions.place if isinstance(captions, Lines) else "caption {}".format
    unknown_words = UnknownWords() if unknown_words is None else unknown_words
    result, truncated, unknown = [], [], []
    for number, caption in enumerate(captions):
        try:
            words = known_caption(caption, vocabulary) if searching else tokenized(caption, vocabulary)
        except DataError as error:
            if searching and len(captions) == 1:
                raise
            raise DataError(f"{place(number)}: {error}") from error
        ids = words.ids
        if len(ids) > limit:
            truncated.append(number)
            ids = [*ids[: limit - 1], ids[-1]]
        if vocabulary.all_unknown(ids):
            unknown.append(number)
        elif missing := [word for word in words[: len(ids) - 2] if word not in vocabulary.words]:
            is_one = len(captions) == 1 and not isinstance(captions, Lines)
            unknown_words.add("" if is_one else f"{place(number)}: ", missing)
        result.append(ids)
    if truncated:
        message = f"{_count(truncated)} longer than {limit - 2} words; further words were dropped"
        warnings.warn(message, CaanWarning, stacklevel=stacklevel)
    if unknown:
        message = f"{_count(unknown)} without any word of the vocabulary; the scores mean little"
        warnings.warn(message, CaanWarning, stacklevel=stacklevel)
    unknown_words.warn(stacklevel + 1)
    return result, np.array([len(ids) for ids in result], np.int64)


def tokenized(caption: Caption, vocabulary: Vocabulary) -> TokenizedCaption:
    """A caption's words and ids; a TokenizedCaption is returned unchanged.

    Raises DataError for an empty caption, invalid UTF-8, and a list of captions.
    """
    if isinstance(caption, TokenizedCaption):
        return caption
    check_tokens(caption, vocabulary)
    words = vocabulary.words_of(caption)
    return TokenizedCaption(words, vocabulary.ids_of(words), caption if isinstance(caption, str) else " ".join(caption))


def known_caption(caption: Caption, vocabulary: Vocabulary) -> TokenizedCaption:
    """As `tokenized`. Also raises DataError if no word of the caption is in the vocabulary."""
    words = tokenized(caption, vocabulary)
    if vocabulary.all_unknown(words.ids):
        raise DataError(f"no word of '{words.text[:60]}' is in the model's vocabulary; try other words")
    return words


def shortened(words: TokenizedCaption, limit: int, vocabulary: Vocabulary) -> TokenizedCaption:
    """A caption truncated to `limit` ids, with unknown words as `<unk>`: it causes no further warnings."""
    ids = words.ids if len(words.ids) <= limit else [*words.ids[: limit - 1], words.ids[-1]]
    unknown = vocabulary.unknown
    kept = ["<unk>" if number == unknown else word for word, number in zip(words, ids[1:-1], strict=False)]
    return TokenizedCaption(kept, ids, words.text)


def check_tokens(caption: Caption, vocabulary: Vocabulary) -> None:
    """Raise DataError if a caption's token list looks like a list of captions."""
    for token in () if isinstance(caption, str) else caption:
        if isinstance(token, str) and len(token.split()) > 1 and token not in vocabulary.words:
            raise DataError(
                f"a list is the tokens of one caption, and '{token[:60]}' is several words; several captions go to"
                " search_many, encode_captions or score_matrix"
            )


def are_images(queries: Sequence[Query], kind: str) -> TypeGuard[Sequence[NDArray[np.floating]]]:
    """Whether the queries are images' features, for searching captions. Raises DataError for mixed or unsuitable ones.

    queries: as returned by `queries_of`; kind: what the gallery holds, "image" or "text".
    """
    if not queries:
        return False  # `tokenize` reports the error
    images = [is_features(query) for query in queries]
    if any(images) != all(images):
        raise DataError("the queries are captions and images mixed; search with one kind at a time")
    if all(images) != (kind == "text"):
        actual, needed = ("images", "captions") if all(images) else ("captions", "images' features")
        raise DataError(f"this gallery holds {kind}s; search it with {needed}, not with {actual}")
    return all(images)


def pad_features(images: Sequence[NDArray[np.floating]], expected: int) -> tuple[NDArray[np.float32], list[int]]:
    """Images' features (R_i, F) → one array (n, R, F), padded with zeros, and each image's number of regions.

    Raises DataError, naming the image, unless each is a float array (R_i ≥ 1, expected).
    """
    for number, image in enumerate(images):
        is_masked = isinstance(image, np.ma.MaskedArray)
        if image.ndim != 2 or image.shape[1] != expected or len(image) == 0 or image.dtype.kind != "f" or is_masked:
            actual = f"{'masked ' if is_masked else ''}{image.dtype} {image.shape}"
            raise DataError(f"image {number} must be a float array (regions, {expected}), not {actual}")
    lengths = [len(image) for image in images]
    padded = np.zeros((len(images), max(lengths), expected), np.float32)
    with np.errstate(over="ignore"):  # values beyond float32 become infinity; encoding refuses them, naming the image
        for row, image in zip(padded, images, strict=True):
            row[: len(image)] = image
    return padded, lengths


def check_features(features: NDArray[np.floating], expected: int, limit: int) -> None:
    """Raise DataError unless features are a float array (N ≥ 1, 1 ≤ R ≤ limit, expected)."""
    if not isinstance(features, np.ndarray):
        raise DataError(
            f"features must be a float array (images, regions, {expected}), not {described(features)}; make a NumPy"
            " array of it"
        )
    is_float = np.issubdtype(features.dtype, np.floating)
    is_masked = isinstance(features, np.ma.MaskedArray)
    if features.ndim != 3 or not is_float or is_masked:
        actual = f"{'masked ' if is_masked else ''}{'' if is_float else f'{features.dtype} '}{features.shape}"
        raise DataError(f"features must be a float array (images, regions, {expected}), not {actual}")
    if len(features) == 0:
        raise DataError("there is no image; give at least one")
    if features.shape[2] != expected:
        raise DataError(f"features have dimension {features.shape[2]}, the model was trained on {expected}")
    if not 1 <= features.shape[1] <= limit:
        raise DataError(f"features have {features.shape[1]} regions per image, the model takes 1 to {limit}")


def image_lengths(features: NDArray[np.floating], lengths: Any) -> NDArray[np.int64]:
    """Each image's number of regions, (N,) int64; all regions if `lengths` is None.

    Raises DataError unless `lengths` holds one integer per image, each within the features' regions.
    """
    images, regions = features.shape[:2]
    if lengths is None:
        return np.full(images, regions, np.int64)
    result = integers_of(lengths, images, "lengths", "image")
    if result.min() < 1 or result.max() > regions:
        raise DataError(
            f"lengths must be 1 to {regions}, the regions in the features, not {result.min()} to {result.max()}"
        )
    return result


def resolve_k(k: Any, gallery: Gallery, *, clamp: bool = False) -> int:
    """The number of hits per query. None: 10, or all items if fewer. clamp: limit a larger k to the number of items.

    Raises InputError if k is not an integer, DataError if it is not 1 to the number of items.
    """
    live = len(gallery.live)
    if k is None:
        return min(DEFAULT_HITS, live)
    if not isinstance(k, int | np.integer) or isinstance(k, bool):
        raise InputError(f"k must be a whole number, not {k!r:.40}")
    if clamp and k > live:
        return live
    if not 1 <= k <= live:
        raise DataError(f"k is {k}, the gallery has {live} items; ask for 1 to {live}")
    return int(k)


def check_gallery(gallery: Gallery, kind: Kind, backend: Backend) -> None:
    """Raise DataError for a gallery of the other kind or with items too long, BundleError for another model's."""
    if gallery.kind != kind:
        raise DataError(f"this gallery holds {gallery.kind} states, {kind} states are needed here")
    if gallery.encoder != backend.model.encoders[kind]:
        raise BundleError(
            "this gallery was made with another model or precision; open the bundle in that precision, or encode"
            " again: caan index"
        )
    width = sum(matrix_widths(backend, kind, compact=gallery.compact))
    if gallery.columns != width:
        raise BundleError(
            f"this gallery's states have {gallery.columns} columns, the model's {width}; encode it again: caan index"
        )
    part = "regions" if kind == "image" else "words"
    longest, limit = int(gallery.lengths.max()), backend.model.limits[part]
    if longest > limit:
        raise DataError(f"this gallery has {kind}s of {longest} {part}, the backend takes up to {limit}")


def check_any_left(gallery: Gallery) -> None:
    """Raise DataError if every item is deleted."""
    if len(gallery.live) == 0:
        raise DataError("every item of this gallery is deleted; append some, or index it again: caan index")


def random_captions(vocabulary: Vocabulary, number: int) -> list[list[str]]:
    """Captions of random words, the same on every call: only for measuring speed."""
    words = [word for word in vocabulary.words if word not in SPECIAL_TOKENS]
    return [list(row) for row in np.random.default_rng(0).choice(words, (number, RANDOM_WORDS)).tolist()]


def _count(numbers: list[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:3]) + (", …" if len(numbers) > 3 else "")
    return f"caption {shown} is" if len(numbers) == 1 else f"{len(numbers)} captions ({shown}) are"
