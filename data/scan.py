"""Data sets in the format of the SCAN repository (Lee et al., ECCV 2018).

DIR/{split}_ims.npy    region features (N, R, F), or (5·N, R, F) with every image repeated once per caption
DIR/{split}_caps.txt   captions, one per line, five lines per image in the images' order
DIR/{split}_ids.txt    optional: one name per image
DIR/vocab.json         optional: the vocabulary
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_file, open_regular, read_input
from .._text import Lines, lines_of
from ..errors import DataError

CAPTIONS_PER_IMAGE = 5
# Groups of rows to compare, to distinguish "repeated five times" from "one caption per image".
_PROBED_GROUPS = 64
_HASHED_ROWS = 64


@dataclass(frozen=True)
class ScanSplit:
    """One split of a data set. Features stay on disk, memory-mapped."""

    folder: Path
    split: str
    features: NDArray[np.floating]  # (images, regions, F), memory-mapped; any float dtype
    captions: list[str]  # (captions,)
    image_of_caption: NDArray[np.int64]  # (captions,)
    ids: list[str] | None  # (images,)
    layout: str = ""  # how the captions belong to the images, in words

    @property
    def vocabulary_path(self) -> Path:
        return self.folder / "vocab.json"


def open_split(folder: Path, split: str = "test") -> ScanSplit:
    """Open one split of a SCAN data set.

    Raises DataError, naming the file, if one is missing, damaged or empty, or if features, captions and ids do not
    match.
    """
    features_path, captions_path = find_split(folder, split)
    features = open_features(features_path)
    captions = read_captions(captions_path)
    step, per_image = _layout(features, len(captions), features_path, captions_path)
    images = features[::step]  # still a view of the file
    return ScanSplit(
        folder=folder,
        split=split,
        features=images,
        captions=captions,
        image_of_caption=np.arange(len(captions), dtype=np.int64) // per_image,
        ids=_read_ids(folder / f"{split}_ids.txt", len(images)),
        layout=f"{len(images):,} images, {per_image} captions each" + (f", in {step} rows each" if step > 1 else ""),
    )


def find_split(folder: Path, split: str) -> tuple[Path, Path]:
    """Paths of a split's features and captions. Raises DataError if one is missing; checks nothing else."""
    if not folder.is_dir():
        raise DataError(
            f"no data set at {folder}: it is not a folder; name one with {split}_ims.npy and {split}_caps.txt"
        )
    paths = folder / f"{split}_ims.npy", folder / f"{split}_caps.txt"
    for path in paths:
        if not path.is_file():
            splits = sorted(p.name.removesuffix("_ims.npy") for p in folder.glob("*_ims.npy"))
            raise DataError(f"{path} is missing; splits in this folder: {', '.join(splits) or 'none'} (--split)")
    return paths


def open_features(path: Path) -> NDArray[np.floating]:
    """Memory-map region features, (N, R, F) of any float dtype.

    Raises DataError if the file is missing, not an `.npy` file, truncated, not three-dimensional, not floating point,
    or has no image, region or feature.
    """
    features = open_array(path)
    if features.ndim != 3 or not np.issubdtype(features.dtype, np.floating):
        raise DataError(f"{path} holds {features.dtype} {features.shape}; expected floats (images, regions, features)")
    if 0 in features.shape:
        raise DataError(f"{path} is empty: its shape is {features.shape} (images, regions, features)")
    return features


def open_lengths(path: Path) -> NDArray[np.integer]:
    """The number of regions of each image, (N,) int. Raises DataError if the file holds anything else."""
    lengths = open_array(path)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise DataError(f"{path} holds {lengths.dtype} {lengths.shape}; expected integers (images,), regions of each")
    return lengths


def open_array(path: Path) -> NDArray[Any]:
    """Memory-map an `.npy` file of any shape. Raises DataError if it is missing or not an `.npy` file."""
    try:
        open_regular(path).close()  # NumPy would block on a pipe
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged header makes numpy raise nearly any type
        raise DataError(
            f"{path} is not an .npy file of numbers, or is truncated; save it with numpy.save, or copy it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} holds several arrays (.npz); save one array with numpy.save")
    return array


def read_captions(path: Path) -> Lines:
    """Read captions, one per line, stripped of surrounding white space.

    Raises DataError for a missing or empty file, for an empty line, and as `lines_of`.
    """
    return captions_of(read_text_file(path), str(path))


def captions_of(content: bytes, name: str, *, may_lack: bool = False) -> Lines:
    """As `read_captions`, from the content of a file or stream called `name`; `may_lack` allows empty lines, as ""."""
    return Lines([line.strip() for line in _lines(content, name, "caption", may_lack)], name)


def read_ids(path: Path) -> Lines:
    """Read ids, one per line, with all their spaces. Raises DataError as `read_captions`."""
    return _lines(read_text_file(path), str(path), "id")


def read_text_file(path: Path) -> bytes:
    """A file's content. Raises DataError if it can't be read."""
    try:
        return read_input(path)
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error


def content_digest(features: NDArray[np.floating], captions: Sequence[object]) -> str:
    """SHA-256 of features (N, R, F) and captions, independent of their location."""
    digest = hashlib.sha256(f"{features.dtype.str} {features.shape} {list(captions)!r}".encode())
    for start in range(0, len(features), _HASHED_ROWS):
        digest.update(features[start : start + _HASHED_ROWS].tobytes())
    return digest.hexdigest()


def write_split(
    folder: Path,
    split: str,
    features: NDArray[np.floating],
    captions: Sequence[Sequence[str]],
    ids: Sequence[str] | None = None,
) -> None:
    """Write one split, features (N, R, F), captions as N groups of five, ids (N,).

    Raises DataError if their numbers do not match, OutputError if the folder can't be written.
    """
    if len(features) != len(captions) or any(len(group) != CAPTIONS_PER_IMAGE for group in captions):
        raise DataError(f"{len(features)} images need as many groups of {CAPTIONS_PER_IMAGE} captions")
    with atomic_file(folder / f"{split}_ims.npy") as temporary, temporary.open("wb") as file:
        np.save(file, features, allow_pickle=False)
    _write_lines(folder / f"{split}_caps.txt", [caption for group in captions for caption in group])
    if ids is not None:
        _write_lines(folder / f"{split}_ids.txt", ids)


def _lines(content: bytes, name: str, what: str, may_lack: bool = False) -> Lines:
    lines = lines_of(content, name)
    if not lines:
        raise DataError(f"{name} is empty; expected one {what} a line")
    for index, line in enumerate(lines):
        if not (may_lack or line.strip()):
            raise DataError(f"{lines.place(index)} is empty; every line must hold one {what}")
    return lines


def _layout(features: NDArray[np.floating], captions: int, features_path: Path, captions_path: Path) -> tuple[int, int]:
    """(rows per image in the file, captions per image)."""
    rows = len(features)
    if rows * CAPTIONS_PER_IMAGE == captions:
        return 1, CAPTIONS_PER_IMAGE
    if rows == captions:
        return (CAPTIONS_PER_IMAGE, CAPTIONS_PER_IMAGE) if _is_repeated(features) else (1, 1)
    raise DataError(
        f"{features_path.name} has {rows} rows and {captions_path.name} {captions} lines ({features_path.parent}): they"
        f" don't fit together; expected {CAPTIONS_PER_IMAGE} captions per image"
    )


def _is_repeated(features: NDArray[np.floating]) -> bool:
    rows = len(features)
    if rows % CAPTIONS_PER_IMAGE:
        return False
    groups = np.unique(np.linspace(0, rows // CAPTIONS_PER_IMAGE - 1, _PROBED_GROUPS).astype(int))
    starts = groups * CAPTIONS_PER_IMAGE
    return all(np.array_equal(features[s], features[s + i]) for s in starts for i in range(1, CAPTIONS_PER_IMAGE))


def _read_ids(path: Path, images: int) -> list[str] | None:
    if not path.is_file():
        return None
    ids = read_ids(path)
    if len(ids) != images:
        raise DataError(f"{path} names {len(ids)} images, the features hold {images}")
    return ids


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
