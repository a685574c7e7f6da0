"""Data sets in the format of the SCAN repository (Lee et al., ECCV 2018).

DIR/{split}_ims.npy      region features (N, R, F), or (M, R, F) with every image repeated once per caption
DIR/{split}_caps.txt     M captions, one per line, in the images' order, usually five per image
DIR/{split}_lengths.npy  optional: regions of each image, (N,) or (M,) integers; further rows are padding
DIR/{split}_ids.txt      optional: N names, or M, the name of each caption's image
DIR/vocab.json           optional: the vocabulary
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_file, open_regular, read_input
from .._text import Lines, lines_of
from ..errors import DataError
from .layout import CAPTIONS_PER_IMAGE, Layout, find_layout
from .plain_pickle import load_plain

_HASHED_ROWS = 64
_ARCHIVE = "holds several arrays (.npz); save one array with numpy.save"
_CAPTION_NUMBER = re.compile(r"#[0-9]+$")
# Two names of one split, in this family of repositories.
_SAME_SPLIT = {"dev": "val", "val": "dev"}


@dataclass(frozen=True)
class ScanSplit:
    """One split of a data set. Features stay on disk, memory-mapped."""

    folder: Path
    split: str
    features: NDArray[np.floating]  # (images, regions, F), memory-mapped; any float dtype
    captions: list[str]  # (captions,)
    image_of_caption: NDArray[np.int64]  # (captions,)
    ids: list[str] | None  # (images,)
    lengths: NDArray[np.int64] | None = None  # (images,) regions of each; None: every region counts
    layout: str = ""  # how the files were read, for people
    # The row of each image in files that may repeat it
    rows: slice | NDArray[np.int64] = field(default_factory=lambda: slice(None))

    @property
    def vocabulary_path(self) -> Path:
        return self.folder / "vocab.json"

    def regions(self, image: int) -> NDArray[np.floating]:
        """An image's features without padding, (r, F)."""
        return self.features[image] if self.lengths is None else self.features[image, : self.lengths[image]]


def open_split(folder: Path, split: str = "test") -> ScanSplit:
    """Open one split of a SCAN data set; `dev` and `val` are names of the same one.

    Raises DataError, naming the file, if one is missing, damaged or empty, or if features, captions, lengths and ids do
    not match.
    """
    features_path, captions_path = find_split(folder, split)
    name = captions_path.name.removesuffix("_caps.txt")
    features = open_features(features_path)
    captions = read_captions(captions_path)
    ids_path, lengths_path = folder / f"{name}_ids.txt", lengths_beside(features_path)
    ids = _without_numbers(read_ids(ids_path), len(captions)) if ids_path.is_file() else None
    lengths = None if lengths_path is None else open_lengths(lengths_path)
    layout = find_layout(features, len(captions), ids, lengths)
    if layout is None:
        raise DataError(
            f"{features_path.name} has {len(features)} rows and {captions_path.name} {len(captions)} lines"
            f" ({features_path.parent}): they don't fit together; expected {CAPTIONS_PER_IMAGE} captions per image, or"
            f" another number for all, or {ids_path.name} with the name of each caption's image"
        )
    names = None if ids is None else _ids(ids, layout)
    unused = ", ids of the captions, not of images" if names is None and ids is not None else ""
    images = features[layout.rows]  # a view of the file, unless images are repeated unequally
    regions, counts = None, ""
    if lengths is not None and lengths_path is not None:
        regions = _lengths(lengths, features, layout, lengths_path)
        if regions is not None:
            low, high = regions.min(), regions.max()
            number = f"{low}" if low == high else f"{low} to {high}"
            counts = f", {number} regions by {lengths_path.name}"
    return ScanSplit(
        folder=folder,
        split=name,
        features=images,
        captions=captions,
        image_of_caption=layout.image_of_caption,
        ids=names,
        lengths=regions,
        layout=layout.description + counts + unused,
        rows=layout.rows,
    )


def find_split(folder: Path, split: str) -> tuple[Path, Path]:
    """Paths of a split's features and captions. Raises DataError if one is missing; checks nothing else."""
    if not folder.is_dir():
        raise DataError(
            f"no data set at {folder}: it is not a folder; name one with {split}_ims.npy and {split}_caps.txt"
        )
    other = _SAME_SPLIT.get(split, split)
    name = split if (folder / f"{split}_ims.npy").is_file() or not (folder / f"{other}_ims.npy").is_file() else other
    paths = folder / f"{name}_ims.npy", folder / f"{name}_caps.txt"
    for path in paths:
        if not path.is_file():
            splits = sorted(p.name.removesuffix("_ims.npy") for p in folder.glob("*_ims.npy"))
            raise DataError(f"{path} is missing; splits in this folder: {', '.join(splits) or 'none'} (--split)")
    return paths


def lengths_beside(features: Path) -> Path | None:
    """The file `{split}_lengths.npy` that belongs to `{split}_ims.npy`; None if there is none."""
    path = features.with_name(f"{features.name.removesuffix('_ims.npy')}_lengths.npy")
    return path if features.name.endswith("_ims.npy") and path.is_file() else None


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
        raise DataError(f"{path} {_why_not_numbers(path)}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} {_ARCHIVE}")
    return array


def open_plain_array(path: Path) -> NDArray[Any] | list[Any]:
    """As `open_array`; an array of objects as the list of its elements, if they are plain data.

    Raises DataError also for objects that are not: nothing in the file is executed.
    """
    file = io.BytesIO(read_text_file(path))
    if not _has_objects(file):
        return open_array(path)
    loaded = load_plain(file.read(), str(path))
    if not isinstance(loaded, list):
        raise DataError(f"{path} holds a {type(loaded).__name__} of objects; expected a list")
    return loaded


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


def content_digest(
    features: NDArray[np.floating], captions: Sequence[object], lengths: NDArray[np.integer] | None = None
) -> str:
    """SHA-256 of features (N, R, F), captions and lengths (N,), independent of their location."""
    digest = hashlib.sha256(f"{features.dtype.str} {features.shape} {list(captions)!r}".encode())
    if lengths is not None:
        digest.update(f"lengths {lengths.tolist()}".encode())
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
    write_lines(folder / f"{split}_caps.txt", [caption for group in captions for caption in group])
    if ids is not None:
        write_lines(folder / f"{split}_ids.txt", ids)


def _has_objects(file: BinaryIO) -> bool:
    """Whether an `.npy` file holds Python objects; it is read up to the end of its header."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return bool(read(file)[2].hasobject)
    except Exception:  # as in `open_array`
        return False


def _why_not_numbers(path: Path) -> str:
    """What a file is, if not a whole `.npy` file of numbers."""
    with open_regular(path) as file:
        start = file.read(len(np.lib.format.MAGIC_PREFIX))
        file.seek(0)
        if start.startswith(b"PK"):
            return _ARCHIVE
        if not np.lib.format.MAGIC_PREFIX.startswith(start):
            return "is not an .npy file; save its array with numpy.save, or convert it: caan data convert"
        if _has_objects(file):
            return "holds Python objects, which could run code; save an array of numbers with numpy.save"
    return "is a damaged or truncated .npy file; copy it again, or save it again with numpy.save"


def _lines(content: bytes, name: str, what: str, may_lack: bool = False) -> Lines:
    lines = lines_of(content, name)
    if not lines:
        raise DataError(f"{name} is empty; expected one {what} a line")
    for index, line in enumerate(lines):
        if not (may_lack or line.strip()):
            raise DataError(f"{lines.place(index)} is empty; every line must hold one {what}")
    return lines


def _lengths(
    lengths: NDArray[np.integer], features: NDArray[np.floating], layout: Layout, path: Path
) -> NDArray[np.int64] | None:
    """The regions of each image, (images,) int64; None if every region counts."""
    rows, limit = len(features), features.shape[1]
    images = int(layout.image_of_caption[-1]) + 1
    if len(lengths) not in (images, rows):
        raise DataError(f"{path} holds {len(lengths)} lengths, the features {images} images; write one per image")
    wrong = np.flatnonzero((lengths < 1) | (lengths > limit))
    if len(wrong):
        raise DataError(
            f"{path}: image {wrong[0]} has {lengths[wrong[0]]} regions; the features hold {limit} each, so lengths are"
            f" 1 to {limit}"
        )
    result: NDArray[np.int64] = np.asarray(lengths if len(lengths) == images else lengths[layout.rows], np.int64)
    return None if (result == limit).all() else result


def _without_numbers(ids: Lines, captions: int) -> Lines:
    """Ids of captions as Flickr numbers them, photo.jpg#0, as those of their images."""
    is_numbered = len(ids) == captions and all(_CAPTION_NUMBER.search(name) for name in ids)
    return ids.replaced(_CAPTION_NUMBER.sub("", name) for name in ids) if is_numbered else ids


def _ids(ids: Lines, layout: Layout) -> list[str] | None:
    """The name of each image; None if every caption has an id of its own."""
    images, captions = int(layout.image_of_caption[-1]) + 1, len(layout.image_of_caption)
    if len(ids) == images:
        return ids
    if len(ids) != captions:
        raise DataError(f"{ids.name} names {len(ids)} images, the features hold {images}")
    if len(set(ids)) == captions:
        return None
    firsts = np.unique(layout.image_of_caption, return_index=True)[1]
    for number, name in enumerate(ids):
        first = firsts[layout.image_of_caption[number]]
        if name != ids[first]:
            raise DataError(
                f"{ids.place(number)} names '{name[:80]}', but line {first + 1} '{ids[first][:80]}' for the same image;"
                " name every image once, or at each of its captions"
            )
    return ids.part(firsts.tolist())


def write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
