"""One image of a source: its regions' features, and boxes where the source has them."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..boxes import relative_boxes

# What extractors call a field: bottom-up-attention and its PyTorch port, LXMERT, ViLBERT, self-critical, MMF, M2.
FEATURES = ("features", "x", "feat", "feats", "feature", "image_features", "att_feats")
BOXES = ("boxes", "bbox", "bboxes", "box", "image_bb")
COUNT = ("num_boxes", "num_bbox", "num_box", "num_objects")
WIDTH = ("image_w", "img_w", "image_width", "width")
HEIGHT = ("image_h", "img_h", "image_height", "height")
NAME = ("image_id", "img_id", "image_ids", "img_ids", "ids", "id", "filename")


class Item(NamedTuple):
    """An image's regions, of any float type, and their boxes as fractions of the picture, if known."""

    features: NDArray[np.floating]  # (r, F)
    boxes: NDArray[np.float32] | None  # (r, 4)
    captions: Sequence[str] = ()  # of a source that knows them


class Source(Protocol):
    """Images with region features, read one at a time."""

    names: list[str]  # (images,) unique
    regions: NDArray[np.int64]  # (images,)
    identity: list[Any]  # of the files' content, JSON-serializable: another identity is other data

    def read(self, image: int) -> Item: ...


def is_name(name: str) -> bool:
    """Whether a name can be a line of UTF-8 text."""
    try:
        name.encode()
    except UnicodeEncodeError:  # a file name in another encoding
        return False
    return bool(name.strip()) and not set(name) & set("\0\r\n")


def field(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The field with the first of these names; None if there is none."""
    return next((fields[name] for name in names if name in fields), None)


def item_of(fields: Mapping[str, Any], place: str) -> Item:
    """The image of a dict of arrays, or of base64 text of float32 arrays, at `place`, for messages.

    Only the first `num_boxes` regions count, if that field is there. Raises DataError for other content.
    """
    stored, number = field(fields, FEATURES), field(fields, COUNT)
    if stored is None:
        held = ", ".join(str(name) for name in list(fields)[:8])
        raise DataError(f"{place} has no features: it holds {held or 'nothing'}; expected a field features or x")
    count = None if number is None else int(_number(number, f"the number of regions of {place}"))
    features = _matrix(stored, count, f"the features of {place}")
    if count is not None:
        if not 1 <= count <= len(features):
            raise DataError(f"{place} says {count} regions and holds {len(features)}; extract it again")
        features = features[:count]
    if 0 in features.shape:
        raise DataError(f"{place} holds no region; extract it again, or leave it out")
    boxes = field(fields, BOXES)
    if boxes is None:
        return Item(features, None)
    sides = [field(fields, names) for names in (WIDTH, HEIGHT)]
    corners = _matrix(boxes, count, f"the boxes of {place}")[: len(features)]
    if len(corners) != len(features) or corners.shape[1] < 4:
        raise DataError(
            f"{place} has {len(features)} regions and boxes {corners.shape}; expected four sides per region"
        )
    corners = corners[:, :4]  # further columns hold relative sizes
    if all(side is not None for side in sides):
        width, height = (_number(side, f"the size of the picture of {place}") for side in sides)
        if not (width > 0 and height > 0):
            raise DataError(f"{place} says its picture has {width:g} × {height:g} pixels; extract it again")
        return Item(features, relative_boxes(corners, width, height).clip(0, 1))  # detectors may round beyond
    is_relative = bool(np.isfinite(corners).all()) and corners.min() >= 0 and corners.max() <= 1
    return Item(features, relative_boxes(corners, 1, 1) if is_relative else None)


def decoded(text: str | bytes, place: str) -> NDArray[np.float32]:
    """The float32 numbers of base64 text. Raises DataError, calling it `place`, for other text."""
    try:
        content = base64.b64decode(text, validate=True)
        return np.frombuffer(content, "<f4")
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{place} are not base64 of float32 numbers ({error}); copy the file again") from error


def _number(value: Any, place: str) -> float:
    """A number, alone or in an array or text."""
    try:
        number = float(np.asarray(value).reshape(-1)[0])
    except (IndexError, TypeError, ValueError) as error:
        raise DataError(f"{place} is {str(value)[:20]!r}, not a number; extract it again") from error
    if not math.isfinite(number):
        raise DataError(f"{place} is {number}; extract it again")
    return number


def _matrix(value: Any, count: int | None, place: str) -> NDArray[np.floating]:
    """Rows of a two-dimensional array; text is decoded to `count` rows."""
    if isinstance(value, str | bytes):
        flat = decoded(value, place)
        if count is None or count < 1 or len(flat) % count:
            raise DataError(f"{place} are {len(flat)} numbers, which don't divide among {count} regions")
        value = flat.reshape(count, -1)
    array = np.asarray(value)
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(f"{place} are {array.dtype} {array.shape}; expected numbers (regions, columns)")
    return array if array.dtype.kind == "f" else array.astype(np.float32)
