"""What an application hands in: captions to tokens, features checked before minutes are spent on them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from .._text import Lines
from ..bundle import state_widths
from ..data.vocabulary import SPECIAL_TOKENS, UNKNOWN, Vocabulary
from ..errors import BundleError, CaanWarning, DataError, InputError
from .backends.contract import Backend
from .galleries.gallery import Gallery
from .lists import Caption, Query, TokenizedCaption, captions_of, described, integers_of, is_features
from .unknown_words import UnknownWords

# And <start> and <end>: T = 14, the mean of the field's data sets.
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
    """Token ids of each caption, cut to `limit`, and their number.

    searching: a caption without a known word is an error, since it finds nothing in particular; the message names a
    caption only if there are several.

    CaanWarning for captions that were cut, for those without a known word, and, through `unknown_words`, for words that
    are not known; by default it points at the caller's caller. Captions that are `Lines` are named by file and line.
    Raises DataError, naming the caption, for one that is empty, not UTF-8, or neither text nor tokens, InputError for
    what is not a list.
    """
    captions = captions_of(captions)
    if not captions:
        raise DataError("there is no caption; give at least one")
    place = captions.place if isinstance(captions, Lines) else "caption {}".format
    lacking = UnknownWords() if unknown_words is None else unknown_words
    result, cut, unknown = [], [], []
    for number, caption in enumerate(captions):
        try:
            words = known_caption(caption, vocabulary) if searching else prepared(caption, vocabulary)
        except DataError as error:
            if searching and len(captions) == 1:
                raise
            raise DataError(f"{place(number)}: {error}") from error
        ids = words.ids
        if len(ids) > limit:
            cut.append(number)
            ids = [*ids[: limit - 1], ids[-1]]
        if all(i == UNKNOWN for i in ids[1:-1]):
            unknown.append(number)
        elif missing := [word for word in words[: len(ids) - 2] if word not in vocabulary.words]:
            is_one = len(captions) == 1 and not isinstance(captions, Lines)
            lacking.add("" if is_one else f"{place(number)}: ", missing)
        result.append(ids)
    if cut:
        message = f"{_count(cut)} longer than {limit - 2} words; the words beyond were dropped"
        warnings.warn(message, CaanWarning, stacklevel=stacklevel)
    if unknown:
        message = f"{_count(unknown)} without any word of the vocabulary; the scores mean little"
        warnings.warn(message, CaanWarning, stacklevel=stacklevel)
    lacking.warn(stacklevel + 1)
    return result, np.array([len(ids) for ids in result], np.int64)


def prepared(caption: Caption, vocabulary: Vocabulary) -> TokenizedCaption:
    """A caption's words and ids; one that is prepared already is returned as it is.

    Raises DataError for an empty caption, one that is not UTF-8, and a list of captions.
    """
    if isinstance(caption, TokenizedCaption):
        return caption
    check_tokens(caption, vocabulary)
    words = vocabulary.words_of(caption)
    return TokenizedCaption(words, vocabulary.ids_of(words), caption if isinstance(caption, str) else " ".join(caption))


def known_caption(caption: Caption, vocabulary: Vocabulary) -> TokenizedCaption:
    """As `prepared`. Raises DataError also if no word of the caption is in the vocabulary."""
    words = prepared(caption, vocabulary)
    if all(number == UNKNOWN for number in words.ids[1:-1]):
        raise DataError(f"no word of '{words.text[:60]}' is in the model's vocabulary; try other words")
    return words


def shortened(words: TokenizedCaption, limit: int) -> TokenizedCaption:
    """A caption cut to `limit` ids, unknown words written as `<unk>`: nothing is left to warn of."""
    ids = words.ids if len(words.ids) <= limit else [*words.ids[: limit - 1], words.ids[-1]]
    kept = ["<unk>" if number == UNKNOWN else word for word, number in zip(words, ids[1:-1], strict=False)]
    return TokenizedCaption(kept, ids, words.text)


def check_tokens(caption: Caption, vocabulary: Vocabulary) -> None:
    """Raise DataError if what should be one caption's tokens is a list of captions."""
    for token in () if isinstance(caption, str) else caption:
        if isinstance(token, str) and len(token.split()) > 1 and token not in vocabulary.words:
            raise DataError(
                f"a list is the tokens of one caption, and '{token[:60]}' is several words; several captions go to"
                " search_many, encode_captions or score_matrix"
            )


def are_images(queries: Sequence[Query], kind: str) -> TypeGuard[Sequence[NDArray[np.floating]]]:
    """Whether these are images' features, as a gallery of captions is searched with. Raises DataError for a mixture.

    queries: as `queries_of` gives them; kind: what the gallery holds, "image" or "text".
    """
    if not queries:
        return False  # `tokenize` says what is wrong
    images = [is_features(query) for query in queries]
    if any(images) != all(images):
        raise DataError("the queries are captions and images mixed; search with one kind at a time")
    if all(images) != (kind == "text"):
        asked, needed = ("images", "captions") if all(images) else ("captions", "images' features")
        raise DataError(f"this gallery holds {kind}s; search it with {needed}, not with {asked}")
    return all(images)


def pad_features(images: Sequence[NDArray[np.floating]], expected: int) -> tuple[NDArray[np.float32], list[int]]:
    """Images' features (R_i, F) of various R → one array (n, R, F) padded with zeros, and the regions of each.

    Raises DataError, naming the image, for one that is not (R_i ≥ 1, expected) float.
    """
    for number, image in enumerate(images):
        is_masked = isinstance(image, np.ma.MaskedArray)
        if image.ndim != 2 or image.shape[1] != expected or len(image) == 0 or image.dtype.kind != "f" or is_masked:
            found = f"{'masked ' if is_masked else ''}{image.dtype} {image.shape}"
            raise DataError(f"image {number} must be a float array (regions, {expected}), not {found}")
    lengths = [len(image) for image in images]
    padded = np.zeros((len(images), max(lengths), expected), np.float32)
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which encoding refuses by name
        for row, image in zip(padded, images, strict=True):
            row[: len(image)] = image
    return padded, lengths


def check_features(features: NDArray[np.floating], expected: int, limit: int) -> None:
    """Raise DataError if features are not (N ≥ 1, 1 ≤ R ≤ limit, expected) float."""
    if not isinstance(features, np.ndarray):
        raise DataError(
            f"features must be a float array (images, regions, {expected}), not {described(features)}; make a NumPy"
            " array of it"
        )
    is_float = np.issubdtype(features.dtype, np.floating)
    is_masked = isinstance(features, np.ma.MaskedArray)
    if features.ndim != 3 or not is_float or is_masked:
        found = f"{'masked ' if is_masked else ''}{'' if is_float else f'{features.dtype} '}{features.shape}"
        raise DataError(f"features must be a float array (images, regions, {expected}), not {found}")
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
    result = integers_of(lengths, images, "lengths", "image")
    if result.min() < 1 or result.max() > regions:
        raise DataError(
            f"lengths must be 1 to {regions}, the regions in the features, not {result.min()} to {result.max()}"
        )
    return result


def hits_wanted(k: Any, gallery: Gallery, *, clamp: bool = False) -> int:
    """How many hits each query gets; None: 10, or all there are. clamp: a larger k means all there are.

    Raises InputError for what is not a whole number, DataError for one that the gallery's items don't allow.
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


def check_gallery(gallery: Gallery, kind: str, backend: Backend) -> None:
    """Raise DataError for a gallery of the other kind, or of items too long; BundleError for another model's."""
    if gallery.kind != kind:
        raise DataError(f"this gallery holds {gallery.kind} states, {kind} states are needed here")
    if gallery.encoder != backend.model.encoders[kind]:
        raise BundleError(
            "this gallery was made with another model or precision; open the bundle in that precision, or encode"
            " again: caan index"
        )
    width = backend.model.config["embed_dim"] if gallery.compact else state_widths(backend.model.config)[kind]
    if gallery.states.shape[1] != width:
        raise BundleError(
            f"this gallery's states have {gallery.states.shape[1]} columns, the model's {width}; encode it again:"
            " caan index"
        )
    part = "regions" if kind == "image" else "words"
    longest, limit = int(gallery.lengths.max()), backend.model.limits[part]
    if longest > limit:
        raise DataError(f"this gallery has {kind}s of {longest} {part}, the backend takes up to {limit}")


def check_any_left(gallery: Gallery) -> None:
    """Raise DataError if every item is deleted."""
    if len(gallery.live) == 0:
        raise DataError("every item of this gallery is deleted; append some, or index it anew: caan index")


def random_captions(vocabulary: Vocabulary, number: int) -> list[list[str]]:
    """Captions of random words, always the same ones: for measuring speed alone."""
    words = [word for word in vocabulary.words if word not in SPECIAL_TOKENS]
    return [list(row) for row in np.random.default_rng(0).choice(words, (number, RANDOM_WORDS)).tolist()]


def _count(numbers: list[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:3]) + (", …" if len(numbers) > 3 else "")
    return f"caption {shown} is" if len(numbers) == 1 else f"{len(numbers)} captions ({shown}) are"
