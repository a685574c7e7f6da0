"""What a backend is, and which there are.

A new backend is a class with the attributes and methods of `Backend` and a line in BACKENDS (CONTRIBUTING.md).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.vocabulary import Vocabulary
from ..errors import BundleError, CaanWarning, InputError, MissingError
from ..tiling import TileSize
from .tensorrt.engine import has_checked_engine


class Tile(NamedTuple):
    """Some images × some captions for one scorer call. The fields are called as the scorer's inputs are."""

    image_states: NDArray[np.floating]  # (n, R, 2D + 3d)
    image_lengths: NDArray[np.int64]  # (n,)
    text_states: NDArray[np.floating]  # (m, T, D + 3d)
    text_lengths: NDArray[np.int64]  # (m,)


class Layout(NamedTuple):
    """How scorer calls share a processor's cores: so many at a time, each with so many threads."""

    workers: int
    threads: int


class Backend(Protocol):
    """The three graphs of one model, run by somebody. All arrays are NumPy's, C-contiguous; lengths are int64.

    States are of `state_dtype`, features and scores float32.
    """

    name: str
    device: str  # "cpu" or "cuda"
    precision: str
    config: dict[str, Any]
    limits: dict[str, int]  # "regions" and "words": the most that one item may have
    vocabulary: Vocabulary
    encoders: dict[str, str]  # "image" and "text": hash of what makes the states
    state_dtype: np.dtype[Any]  # float32 or float16
    layouts: Sequence[Layout]  # ways to run the scorer, the default first; none: there is but one
    fingerprint: str  # what its speed depends on, besides the machine: library and version, device, precision, model

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        """features (n, R, F) → image states (n, R, 2D + 3d)."""

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        """tokens (m, T), lengths (m,) → text states (m, T, D + 3d)."""

    def score_tiles(self, tiles: Iterable[Tile], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        """Scores (n, m) of each tile, in their order; `layout`: one of `layouts`.

        A backend may take a tile or two before it hands out the first result: their copies overlap with the scoring.
        Image states that are read-only views may stay on a device for the next call.
        """

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        """What the scorer computes for a tile: scores (n, m), H, Hu, Hv (n, m, R, T), av (n, m, R) and au (n, m, T).

        Zero where padded. States that are float16 are taken as they are, what follows is FP32 whatever the precision.
        """

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Regions (n, R, D), the first columns of image states → the whole states (n, R, 2D + 3d), in FP32."""

    def tile_limits(self, regions: int, words: int) -> Sequence[TileSize]:
        """The largest tiles that the scorer takes with items up to these lengths; none: memory alone limits them."""


# Module and class by name: nothing is imported before it is asked for. "torch" lives in model/, the room that may
# import PyTorch; the runtime never does.
BACKENDS = {
    "onnxruntime": ("caan.runtime.onnx_backend", "OnnxBackend"),
    "tensorrt": ("caan.runtime.tensorrt.backend", "TensorRTBackend"),
    "torch": ("caan.model.backend", "TorchBackend"),
}


def open_backend(name: str, path: Path, precision: str, device: str, threads: int | None) -> Backend:
    """Open a bundle (or, for `torch`, a checkpoint) with a backend.

    `auto` is `onnxruntime`, unless the bundle has an engine of this precision that loads here and whose record in the
    manifest holds a check passed on a GPU: speed never costs an accuracy that nobody measured. A GPU engine that was
    checked but is of no use any more is passed over with a CaanWarning.

    Raises InputError for an unknown name, MissingError for a package or device that is not there, BundleError or
    CheckpointError for a file that can't be used.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'; known: {', '.join(BACKENDS)}, auto")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device '{device}'; known: cpu, cuda, auto")
    if name == "auto":
        engine = None if device == "cpu" else _checked_engine(path, precision, device)
        return engine or _open("onnxruntime", path, precision, device, threads)
    return _open(name, path, precision, device, threads)


def _open(name: str, path: Path, precision: str, device: str, threads: int | None) -> Backend:
    module, class_name = BACKENDS[name]
    backend: Backend = getattr(import_module(module), class_name).open(path, precision, device, threads)
    return backend


def _checked_engine(path: Path, precision: str, device: str) -> Backend | None:
    if not has_checked_engine(path, precision):
        return None
    try:
        from .tensorrt.backend import TensorRTBackend

        return TensorRTBackend.open(path, precision, device, None, checked=True)
    except MissingError:
        return None
    except BundleError as error:
        warnings.warn(f"{error}; until then onnxruntime is used", CaanWarning, stacklevel=4)
        return None
