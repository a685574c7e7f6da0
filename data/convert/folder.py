"""Folders with one `.npz` or `.npy` file per image."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..._files import open_regular
from ..._progress import progress_bar
from ...errors import DataError
from ..scan import open_array
from .item import BOXES, COUNT, FEATURES, HEIGHT, WIDTH, Item, item_of
from .other_forms import refusal_of

_READ = (*FEATURES, *BOXES, *COUNT, *WIDTH, *HEIGHT)


class FolderSource:
    """A folder of `.npz` files, fields as in `item`, or of `.npy` files with features (r, F); named by image."""

    def __init__(self, folder: Path, progress: bool) -> None:
        files = {suffix: [path for path in folder.iterdir() if path.suffix == suffix] for suffix in (".npz", ".npy")}
        chosen = files[".npz"] or files[".npy"]
        if not chosen:
            raise _nothing_there(folder)
        self._files = sorted(chosen, key=_natural)
        self.names = [path.name.removesuffix(path.suffix) for path in self._files]
        counts = []
        digest = hashlib.sha256()
        with progress_bar(len(self._files), "reading sizes", "image", progress) as bar:
            for path in self._files:
                counts.append(_rows(path))
                status = path.stat()
                digest.update(f"{path.name}\0{status.st_size} {status.st_mtime_ns}\n".encode("utf-8", "replace"))
                bar.update()
        self.regions = np.array(counts, np.int64)
        self.identity = [str(folder.resolve()), digest.hexdigest()]

    def read(self, image: int) -> Item:
        path = self._files[image]
        if path.suffix == ".npy":
            return item_of({"features": open_array(path)}, str(path))
        try:
            # Only these are read: `info` of bottom-up-attention.pytorch is a pickle.
            with open_regular(path) as file, np.load(file, allow_pickle=False) as archive:
                fields = {name: archive[name] for name in archive.files if name in _READ}
                held = fields or dict.fromkeys(archive.files)
        except Exception as error:  # a damaged archive makes NumPy raise nearly any type
            raise _damaged(path, error) from error
        return item_of(held, str(path))


def _rows(path: Path) -> int:
    """An image's number of regions, from the files' headers alone."""
    if path.suffix == ".npy":
        return len(item_of({"features": open_array(path)}, str(path)).features)
    try:
        with open_regular(path) as whole, zipfile.ZipFile(whole) as archive:
            held = {name.removesuffix(".npy"): name for name in archive.namelist()}
            count = next((held[name] for name in COUNT if name in held), None)
            if count is not None:
                with archive.open(count) as file:
                    return int(np.lib.format.read_array(file, allow_pickle=False).reshape(-1)[0])
            stored = next((held[name] for name in FEATURES if name in held), None)
            if stored is not None:
                with archive.open(stored) as file:
                    shape = _shape(file)
                return shape[1] if len(shape) == 3 and shape[0] == 1 else shape[0]
    except Exception as error:
        raise _damaged(path, error) from error
    raise DataError(f"{path} has no features: it holds {', '.join(held)}; expected an array features or x")


def _shape(file: Any) -> tuple[int, ...]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape: tuple[int, ...] = reader(file)[0]
    return shape


def _damaged(path: Path, error: Exception) -> DataError:
    if isinstance(error, OSError):
        return DataError(f"can't read {path}: {error.strerror or error}")
    if isinstance(error, ValueError) and "allow_pickle" in str(error):
        return DataError(f"{path} holds Python objects, which could run code; save its arrays as plain numbers")
    return DataError(f"{path} can't be read as .npz ({type(error).__name__}); it is damaged: copy it again")


def _nothing_there(folder: Path) -> DataError:
    for path in sorted(folder.iterdir(), key=_natural):
        if (refusal := refusal_of(path)) is not None:
            return refusal
    return DataError(f"{folder} holds no .npz or .npy files; name a folder with one per image")


def _natural(path: Path) -> list[Any]:
    """Sorts 2.npz before 10.npz."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"([0-9]+)", path.name) if part]
