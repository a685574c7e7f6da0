"""A bundle's sketch: calibration items, held-out queries, and the projection from pooled items to sketches.

BUNDLE/sketch/regions.npy         float16 (rows, D): V of the calibration images, then of the held-out ones
BUNDLE/sketch/region_lengths.npy  int32 (images,)
BUNDLE/sketch/tokens.npy          int32 (rows,): ids of the calibration captions, then of the held-out ones
BUNDLE/sketch/token_lengths.npy   int32 (captions,)
BUNDLE/sketch/projection.npy      float32 (2, D, columns): of images, of captions
BUNDLE/sketch/steps.npy           float32 (2, columns): of a sketch's integers

The mathematics: docs/large_galleries.md.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bundle import Bundle
from .errors import BundleError

FOLDER = "sketch"
FILES: dict[str, np.dtype[Any]] = {
    "regions": np.dtype("<f2"),
    "region_lengths": np.dtype("<i4"),
    "tokens": np.dtype("<i4"),
    "token_lengths": np.dtype("<i4"),
    "projection": np.dtype("<f4"),
    "steps": np.dtype("<f4"),
}
# Index of an item's kind in `projection` and `steps`.
SIDES = {"image": 0, "text": 1}
MOST_COLUMNS, COLUMNS_UNIT = 512, 16


@dataclass(frozen=True)
class Sketch:
    """The arrays of a bundle's sketch, named as their files; the first `calibration` items of each kind calibrate."""

    regions: NDArray[np.float16]
    region_lengths: NDArray[np.int32]
    tokens: NDArray[np.int32]
    token_lengths: NDArray[np.int32]
    projection: NDArray[np.float32]
    steps: NDArray[np.float32]
    calibration: int

    def save(self, bundle: Path) -> None:
        """Write the files into a bundle that is being changed."""
        (bundle / FOLDER).mkdir(exist_ok=True)
        for name, dtype in FILES.items():
            (bundle / file_of(name)).unlink(missing_ok=True)  # it may be a hard link to the published one
            np.save(bundle / file_of(name), np.ascontiguousarray(getattr(self, name), dtype=dtype))


class BundleSketch:
    """The sketch of an opened bundle, read when first used."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.identity = _identity(bundle.manifest["files"])
        self.columns = int(bundle.manifest["sketch"]["columns"])

    @cached_property
    def content(self) -> Sketch:
        """The arrays. Raises BundleError for files that do not fit each other or the model."""
        bundle = self._bundle
        arrays = {name: self._read(name, dtype) for name, dtype in FILES.items()}
        sketch = Sketch(**arrays, calibration=int(bundle.manifest["sketch"]["calibration"]))
        dim, columns = bundle.config["embed_dim"], self.columns
        fits = (
            sketch.projection.shape == (2, dim, columns)
            and sketch.steps.shape == (2, columns)
            and (sketch.steps > 0).all()
            and np.isfinite(sketch.steps).all()
            and np.isfinite(sketch.projection).all()
            and sketch.regions.ndim == 2
            and sketch.regions.shape[1] == dim
            and _fit(sketch.regions, sketch.region_lengths, sketch.calibration, bundle.manifest["limits"]["regions"])
            and _fit(sketch.tokens, sketch.token_lengths, sketch.calibration, bundle.manifest["limits"]["words"])
            and np.isfinite(sketch.regions).all()
            and sketch.tokens.min() >= 0
            and sketch.tokens.max() < bundle.config["vocab_size"]
        )
        if not fits:
            raise BundleError(
                f"{bundle.folder / FOLDER} does not fit its model; make it again: {remedy(bundle.folder)}"
            )
        return sketch

    def _read(self, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        file = file_of(name)
        try:
            array = np.load(io.BytesIO(self._bundle.content(file)), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BundleError(
                f"{self._bundle.folder / file} is not an array; make it again: {remedy(self._bundle.folder)}"
            ) from error
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            raise BundleError(
                f"{self._bundle.folder / file} is not an array of {dtype.name}; make it again:"
                f" {remedy(self._bundle.folder)}"
            )
        return array


def sketch_of(bundle: Bundle) -> BundleSketch | None:
    """A bundle's sketch, or None. Raises BundleError if its manifest lists only some of the files."""
    entry = bundle.manifest.get("sketch")
    if not isinstance(entry, dict):
        return None
    missing = [file_of(name) for name in FILES if file_of(name) not in bundle.manifest["files"]]
    sizes = [entry.get(name) for name in ("columns", "calibration")]
    if missing or any(type(size) is not int or size < 1 for size in sizes):
        what = f"does not list {missing[0]}" if missing else "has no valid 'sketch'"
        raise BundleError(f"{bundle.folder / 'manifest.json'} {what}; make it again: {remedy(bundle.folder)}")
    return BundleSketch(bundle)


def file_of(name: str) -> str:
    """The path inside a bundle of one of `FILES`."""
    return f"{FOLDER}/{name}.npy"


def remedy(bundle: Path) -> str:
    """The command that makes a bundle's sketch."""
    return f"caan sketch {bundle} --data DIR"


def _identity(files: Mapping[str, Any]) -> str:
    """SHA-256 over the names and hashes of the files: galleries remember which sketch made theirs."""
    lines = "".join(f"{file_of(name)} {files[file_of(name)]['sha256']}\n" for name in sorted(FILES))
    return hashlib.sha256(lines.encode("ascii")).hexdigest()


def _fit(rows: NDArray[Any], lengths: NDArray[np.int32], calibration: int, limit: int) -> bool:
    """Whether these are the lengths of at least `calibration` items with these rows."""
    is_list = lengths.ndim == 1 and len(lengths) >= calibration
    return bool(is_list and (lengths >= 1).all() and (lengths <= limit).all() and lengths.sum() == len(rows))
