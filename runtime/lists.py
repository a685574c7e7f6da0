"""Checks lists from the application element by element: captions, queries, ids, lengths.

A caption is text or a sequence of tokens. A list is a list, a tuple, a one-dimensional NumPy array, or a column with
`tolist`, such as pandas.Series. Anything without order or length, or with two axes, is refused, and so is an element
of another type, named by its position. Nothing is converted to text or numbers by guessing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._text import Lines
from ..errors import DataError, InputError

Caption = str | Sequence[str]
Query = Caption | NDArray[np.floating]  # a caption, or an image's region features (R, F)


class TokenizedCaption(list[str]):
    """A caption's words and their ids: split and looked up once, on input.

    ids: `<start>`, the words' ids, `<end>`; text: the original caption, for messages.
    """

    def __init__(self, words: Iterable[str], ids: list[int], text: str) -> None:
        super().__init__(words)
        self.ids, self.text = ids, text


def listed(values: Any, what: str) -> list[Any]:
    """The elements of a list-like value. what: their plural, such as "captions", for messages.

    Raises InputError for a single string, and for anything that is not a list.
    """
    if isinstance(values, str):
        raise InputError(f"{what} must be a list of {what}, not one string; write [{what.rstrip('s')}]")
    if isinstance(values, list | tuple):
        return list(values)
    # NumPy arrays and data frame columns, without importing their packages.
    is_column = getattr(values, "ndim", None) == 1 and hasattr(values, "tolist")
    if is_column and not isinstance(values, np.ma.MaskedArray):
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, bytes | bytearray | memoryview):
        return list(values)
    raise InputError(f"{what} must be a list of {what}, not {described(values)}; make one: list(...)")


def caption_of(caption: Any, name: str) -> Caption:
    """A caption as str or a list of tokens. Raises DataError, calling it `name`, for anything else."""
    if isinstance(caption, TokenizedCaption):
        return caption
    if isinstance(caption, np.ndarray) and caption.ndim == 0:
        caption = caption.item()
    if isinstance(caption, str):
        return str(caption)
    is_tokens = isinstance(caption, list | tuple) or (isinstance(caption, np.ndarray) and caption.dtype.kind in "UO")
    if not is_tokens:
        raise DataError(f"{name} is {described(caption)}, not text or a list of tokens")
    tokens = listed(caption, "tokens")
    for number, token in enumerate(tokens):
        if not isinstance(token, str):
            raise DataError(f"{name}: token {number} is {described(token)}, not text")
    return [str(token) for token in tokens]


def captions_of(captions: Any) -> Sequence[Caption]:
    """Captions as str and lists of tokens.

    Raises InputError unless it is a list; DataError, naming the caption, for one that is neither text nor tokens.
    """
    if isinstance(captions, Lines):
        return captions  # unchanged: they know their file and line numbers
    return [caption_of(caption, f"caption {number}") for number, caption in enumerate(listed(captions, "captions"))]


def is_features(query: Any) -> bool:
    """Whether a query is an array of numbers. Text and tokens may be arrays too."""
    return isinstance(query, np.ndarray) and query.dtype.kind not in "USO"


def queries_of(queries: Any) -> Sequence[Query]:
    """Captions as str and lists of tokens; images' features unchanged. An array (images, R, F) is a list of images.

    Raises as `captions_of`.
    """
    if isinstance(queries, Lines):
        return queries
    if isinstance(queries, str):
        raise InputError("queries must be a list, not one string; write [caption], or use search")
    if isinstance(queries, np.ndarray) and queries.ndim > 1 and is_features(queries):
        return list(queries)
    return [
        query if is_features(query) else caption_of(query, f"caption {number}")
        for number, query in enumerate(listed(queries, "queries"))
    ]


def ids_of(ids: Any, items: int) -> list[str] | None:
    """The ids as plain strings. Raises InputError unless it is a list; DataError for a wrong number or a bad id."""
    if ids is None:
        return None
    names = listed(ids, "ids")
    if len(names) != items:
        raise DataError(f"{len(names)} ids don't fit {items} items; give one name per item")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not _is_unicode(name):
            raise DataError(f"id {number} is not text: {name!r:.80}; ids are strings that UTF-8 can hold")
    return [str(name) for name in names]


def listed_ids(ids: Any, what: str = "ids") -> list[str | int]:
    """Ids and indices as str and int. Raises InputError unless they are a list or set of str and int."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise InputError(f"{what} must be a list or set of ids, not {described(ids)}")
    values = list(ids) if isinstance(ids, set | frozenset) else listed(ids, what)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
            raise InputError(f"{what} must hold ids (text) or indices (int), not {value!r:.40}")
    return [str(value) if isinstance(value, str) else int(value) for value in values]


def integers_of(values: Any, number: int, what: str, each: str) -> NDArray[np.int64]:
    """Integers (number,) int64. what: their plural, for messages; each: the kind of item that has one.

    Raises DataError, naming the first element that is not an integer; InputError unless it is a list.
    """
    expected = f"{what} must be {number} integers, one per {each}"
    if not isinstance(values, np.ndarray) or (values.dtype.kind == "O" and values.ndim == 1):
        values = listed(values, what)
        for position, value in enumerate(values):
            if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
                raise DataError(f"{expected}, and number {position} is {described(value)}")
            if not -(2**63) <= value < 2**63:
                raise DataError(f"{expected}, and number {position} is beyond 64 bits: {value!r:.40}")
        values = np.array(values, np.int64)
    is_masked = isinstance(values, np.ma.MaskedArray)
    if values.shape != (number,) or not np.issubdtype(values.dtype, np.integer) or is_masked:
        raise DataError(f"{expected}, not {'masked ' if is_masked else ''}{values.dtype} {values.shape}")
    # uint64 exceeds int64: larger values become int64's maximum, which fails every range check.
    result: NDArray[np.int64] = np.minimum(values, np.iinfo(np.int64).max).astype(np.int64)
    return result


def described(value: Any) -> str:
    """A value for a message: its type, and its value or shape."""
    if value is None:
        return "None"
    name = "array" if isinstance(value, np.ndarray) else type(value).__name__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        dtype = getattr(value, "dtype", "")
        return f"{_article(name)} {str(dtype) + ' ' if dtype else ''}{tuple(shape)}"
    if isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return f"{_article(name)} ({value!r:.40})"
    return _article(name)


def _article(name: str) -> str:
    return name if name == "bytes" else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _is_unicode(name: str) -> bool:
    """False for lone surrogates, which Python puts into file names that are not UTF-8."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
