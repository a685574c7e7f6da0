"""Opens features in whatever form they are, told by name and first bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..scan import lengths_beside, open_features, open_lengths
from .folder import FolderSource
from .hdf5 import Hdf5Source
from .item import Item, Source, is_name
from .lightning import LmdbSource
from .other_forms import LFS, first_bytes, refusal_of
from .tsv import NPZ, TsvSource

READ = "bottom-up-attention's .tsv, a folder of .npz or .npy files, HDF5 (.h5, .hdf5), LMDB, or one .npy of all images"
_LMDB_START = b"\xde\xc0\xef\xbe"  # after the page's header of 16 bytes
_HDF5, _HDF5_START = (".h5", ".hdf5", ".hdf"), b"\x89HDF\r\n\x1a\n"


def open_source(paths: list[Path], names: list[str] | None, progress: bool) -> Source:
    """Open the features of all images; several paths only for TSV files, which belong together.

    names: of the images, where the file has none. Raises DataError for a form that isn't read, saying how to convert
    it, for damaged content and for names that repeat; MissingError for a package that reads the form.
    """
    for path in paths:
        if not path.exists():
            raise DataError(f"no features at {path}; name {READ}")
        if path.is_file() and first_bytes(path).startswith(LFS):
            raise DataError(f"{path} is a pointer of Git LFS, not the file itself; fetch it: git lfs pull")
    path = paths[0]
    if len(paths) > 1 and not all(_is_tsv(other) for other in paths):
        raise DataError(f"{len(paths)} sources are given; only .tsv files may be several. Convert one at a time")
    source = _opened(path, paths, names, progress)
    seen: set[str] = set()
    for name in source.names:
        if name in seen or not is_name(name):
            problem = "names two images" if name in seen else "names an image"
            raise DataError(f"{path} {problem} {name[:80]!r}; give each image a name of its own, of one line of text")
        seen.add(name)
    return source


def _opened(path: Path, paths: list[Path], names: list[str] | None, progress: bool) -> Source:
    if path.is_dir():
        return LmdbSource(path, progress) if (path / "data.mdb").is_file() else FolderSource(path, progress)
    if _is_tsv(path):
        return TsvSource(paths, progress)
    start = first_bytes(path)
    if path.suffix.lower() in _HDF5 or start.startswith(_HDF5_START):
        return Hdf5Source(path, names)
    if start[16:].startswith(_LMDB_START):
        return LmdbSource(path, progress)
    if start.startswith(b"\x93NUMPY") or path.suffix.lower() == ".npy":
        return ArraySource(path, names)
    if path.suffix.lower() == ".npz":
        raise DataError(f"{path} is one .npz file; name the folder of all images' files: {NPZ}")
    raise refusal_of(path) or DataError(
        f"{path} is of no form that is read; name {READ}, or write for each image {NPZ}"
    )


def _is_tsv(path: Path) -> bool:
    """Also the parts train.tsv.0, train.tsv.1 of the published files."""
    return ".tsv" in (path.suffix.lower(), Path(path.stem).suffix.lower()) and path.suffix.lower() not in (
        ".gz",
        ".zip",
    )


class ArraySource:
    """One array (N, R, F) of all images, with X_lengths.npy beside X_ims.npy; named by `names`, else by number."""

    def __init__(self, path: Path, names: list[str] | None) -> None:
        self._features = open_features(path)
        images, limit = self._features.shape[:2]
        beside = lengths_beside(path)
        lengths = np.full(images, limit) if beside is None else open_lengths(beside)
        if lengths.shape != (images,) or lengths.min() < 1 or lengths.max() > limit:
            raise DataError(f"{beside} doesn't fit {path}: expected {images} lengths of 1 to {limit} regions")
        if names is not None and len(names) != images:
            raise DataError(f"{path} holds {images} images and {len(names)} names; give one per image: --names FILE")
        self.names = [str(number) for number in range(images)] if names is None else names
        self.regions = lengths.astype(np.int64)
        status = path.stat()
        self.identity: list[Any] = [str(path.resolve()), status.st_size, status.st_mtime_ns, self.regions.tolist()]

    def read(self, image: int) -> Item:
        return Item(np.array(self._features[image, : self.regions[image]]), None)
