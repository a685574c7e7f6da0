"""HDF5 files of features: arrays over all images, or a group or dataset per image."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import CaanError, DataError, needs
from .item import BOXES, COUNT, FEATURES, HEIGHT, NAME, WIDTH, Item, field, item_of

_RANGES = ("pos_boxes", "pos_bbox")
# As M2 Transformer's coco_detections.hdf5: 391895_features, 391895_boxes.
_KNOWN = (*FEATURES, *BOXES, *COUNT, *WIDTH, *HEIGHT)
_PER_IMAGE = re.compile(rf"(.+)_({'|'.join(_KNOWN)})")


class Hdf5Source:
    """An HDF5 file in one of these layouts, told by its names:

    features (N, R, F) with image_ids, num_boxes, boxes, image_w and image_h over the same N; features (M, F) with
    pos_boxes (N, 2), the rows of each image; a group per image; groups features and boxes with a dataset per image;
    datasets ID_features, ID_boxes, …; a dataset per image.
    `names` are the images' where the file has none.
    """

    def __init__(self, path: Path, names: list[str] | None) -> None:
        with needs("data", f"reading {path.name}"):
            import h5py
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise DataError(
                f"{path} can't be read as HDF5 ({str(error)[:80]}); it is damaged: copy it again"
            ) from error
        self._path, self._given = path, names
        status = path.stat()
        self.identity: list[Any] = [str(path.resolve()), status.st_size, status.st_mtime_ns]
        with _readable(path):
            self._root = {name: _checked(self._file, name, path) for name in self._file}
            features = field(self._root, FEATURES)
            if features is None or _is_group(features):
                self.names, self._fields, counts = self._per_image()
            else:
                self.names, self._fields, counts = self._over_all_images()
            self.regions: NDArray[np.int64] = np.array(counts, np.int64)
        if not self.names:
            raise DataError(f"{path} holds no images")

    def read(self, image: int) -> Item:
        with _readable(self._path):
            return item_of(self._fields(image), self._place(image))

    def _place(self, image: int) -> str:
        return f"{self._path}, image {self.names[image][:80]!r}"

    def _over_all_images(self) -> tuple[list[str], Callable[[int], Mapping[str, Any]], list[int]]:
        features, ranges = field(self._root, FEATURES), field(self._root, _RANGES)
        if ranges is not None:
            spans = np.asarray(ranges[()]).astype(np.int64)  # (N, 2) first row, end
            images = len(spans)
        else:
            images = len(features)
        if (features.ndim, images > 0) != (3 if ranges is None else 2, True):
            raise DataError(
                f"{self._path}: {features.name[1:]} is {features.shape}; expected (images, regions, F), or (rows,"
                " F) with pos_boxes"
            )
        singles = {
            names[0]: values for names in (COUNT, WIDTH, HEIGHT) if (values := field(self._root, names)) is not None
        }
        boxes = field(self._root, BOXES)
        for values in singles.values():
            self._check_length(values, images)
        if boxes is not None:
            self._check_length(boxes, features.shape[0])
        if ranges is not None and (spans.ndim != 2 or (spans[:, 0] < 0).any() or spans.max() > features.shape[0]):
            raise DataError(f"{self._path}: {ranges.name[1:]} doesn't fit the {features.shape[0]} rows of features")

        def fields(image: int) -> Mapping[str, Any]:
            rows = image if ranges is None else slice(*spans[image].tolist())
            found: dict[str, Any] = {"features": features[rows], **{n: values[image] for n, values in singles.items()}}
            if ranges is not None:
                found.pop(COUNT[0], None)
            return found if boxes is None else {**found, "boxes": boxes[rows]}

        if ranges is not None:
            counts = (spans[:, 1] - spans[:, 0]).tolist()
        elif COUNT[0] in singles:
            counts = np.asarray(singles[COUNT[0]][()]).reshape(-1).tolist()
        else:
            counts = [features.shape[1]] * images
        return self._names(images), fields, [int(count) for count in counts]

    def _check_length(self, values: Any, number: int) -> None:
        if values.shape[:1] != (number,):
            raise DataError(f"{self._path}: {values.name[1:]} is {values.shape}, the features need {number} of them")

    def _names(self, images: int) -> list[str]:
        stored = field(self._root, NAME)
        names = self._given
        if names is None and stored is not None:
            names = [
                value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in stored[()]
            ]
        if names is None:
            held = ", ".join(self._root)
            raise DataError(
                f"{self._path} doesn't name its images: it holds {held[:200]}; name them, one per line in its order:"
                " --names FILE"
            )
        if len(names) != images:
            raise DataError(
                f"{self._path} holds {images} images and {len(names)} names; give one per image: --names FILE"
            )
        return names

    def _per_image(self) -> tuple[list[str], Callable[[int], Mapping[str, Any]], list[int]]:
        groups: dict[str, dict[str, Any]] = {}
        for name, entry in self._root.items():
            if _is_group(entry):
                inner = {key: _checked(entry, key, self._path) for key in entry}
                if name in _KNOWN:  # features/ID, boxes/ID
                    for image, values in inner.items():
                        groups.setdefault(image, {})[name] = values
                    continue
                groups[name] = {**inner, **{key: value for key, value in entry.attrs.items() if key not in inner}}
            elif match := _PER_IMAGE.fullmatch(name):
                groups.setdefault(match[1], {})[match[2]] = entry
            elif entry.ndim == 2:
                groups[name] = {"features": entry}
        groups = {name: inner for name, inner in groups.items() if field(inner, FEATURES) is not None}
        if not groups:
            held = ", ".join(list(self._root)[:8])
            raise DataError(
                f"{self._path} holds {held}; expected features (images, regions, F) with image_ids, or a group per"
                " image with features and boxes"
            )
        listed = list(groups.items())

        def fields(image: int) -> Mapping[str, Any]:
            return {
                key: value[()] if hasattr(value, "shape") else value
                for key, value in listed[image][1].items()
                if key in _KNOWN
            }

        counts = []
        for _, inner in listed:
            count, features = field(inner, COUNT), field(inner, FEATURES)
            shape = features.shape[1:] if features.ndim == 3 else features.shape
            counts.append(
                shape[0] if count is None else int(np.asarray(count[()] if hasattr(count, "shape") else count))
            )
        return list(groups), fields, counts


def _is_group(entry: Any) -> bool:
    return hasattr(entry, "keys")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what h5py raises for damaged content, nearly any type, into a DataError."""
    try:
        yield
    except CaanError:
        raise
    except Exception as error:
        raise DataError(f"{path} can't be read ({str(error)[:80]}); it is damaged: copy it again") from error


def _checked(group: Any, name: str, path: Path) -> Any:
    """An entry of a group. Raises DataError for one whose content lies in another file."""
    import h5py

    link = group.get(name, getlink=True)
    entry = group[name] if isinstance(link, h5py.HardLink) else None
    if entry is None or (isinstance(entry, h5py.Dataset) and (entry.external or entry.is_virtual)):
        raise DataError(f"{path}: {name[:80]!r} points elsewhere; copy it into one file, as with h5repack")
    return entry
