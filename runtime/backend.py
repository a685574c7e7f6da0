"""What a backend is, and which there are.

A new backend is a class with the attributes and methods of `Backend` and a line in BACKENDS (CONTRIBUTING.md).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.vocabulary import Vocabulary
from ..errors import BundleError, CaanWarning, CheckpointError, InputError, MissingError
from ..tiling import TileSize
from .tensorrt.engine import has_checked_engine

_log = logging.getLogger(__name__)

# No graphs are of this precision: the backends `native` and `triton` multiply states of FP32 graphs in it.
BF16 = "bf16"


class Tile(NamedTuple):
    """Some images × some captions for one scorer call. The fields are called as the scorer's inputs are."""

    image_states: NDArray[np.floating]  # (n, R, 2D + 3d)
    image_lengths: NDArray[np.int64]  # (n,)
    text_states: NDArray[np.floating]  # (m, T, D + 3d)
    text_lengths: NDArray[np.int64]  # (m,)


class RowTile(NamedTuple):
    """The same with states where they lie: item i's are the rows starts[i] to starts[i] + lengths[i]."""

    image_states: NDArray[np.floating]  # (rows, 2D + 3d)
    image_starts: NDArray[np.int64]  # (n,)
    image_lengths: NDArray[np.int64]  # (n,)
    text_states: NDArray[np.floating]  # (rows, D + 3d)
    text_starts: NDArray[np.int64]  # (m,)
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
    fused: bool  # whether it computes a pair without writing to memory: any tile suits it, with states of either dtype
    in_place: bool  # whether its tiles are RowTiles
    fingerprint: str  # what its speed depends on, besides the machine: library and version, device, precision, model

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        """features (n, R, F) → image states (n, R, 2D + 3d)."""

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        """tokens (m, T), lengths (m,) → text states (m, T, D + 3d)."""

    def score_tiles(self, tiles: Iterable[Any], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        """Scores (n, m) of each Tile, or of each RowTile, in their order; `layout`: one of `layouts`.

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
    "native": ("caan.runtime.native_backend", "NativeBackend"),
    "onnxruntime": ("caan.runtime.onnx_backend", "OnnxBackend"),
    "tensorrt": ("caan.runtime.tensorrt.backend", "TensorRTBackend"),
    "triton": ("caan.runtime.triton.backend", "TritonBackend"),
    "torch": ("caan.model.backend", "TorchBackend"),
}


def open_backend(
    name: str, path: Path, precision: str, device: str, threads: int | None, *, trust_engines: bool = False
) -> Backend:
    """Open a bundle (or, for `torch`, a checkpoint) with a backend. trust_engines: also engines not built here.

    `auto` takes, of these, the first that there is:
    - `tensorrt`, if the bundle has an engine of this precision that loads here and whose record in the manifest holds a
      check passed on a GPU: speed never costs an accuracy that nobody measured. A GPU engine that was checked but is
      of no use any more is passed over with a CaanWarning;
    - `onnxruntime` on a GPU;
    - `native`, if its package is installed, and the bundle and the precision are such that it can score them;
    - `onnxruntime` on the CPU.

    Raises InputError for an unknown name, and for a precision that the backend never has; MissingError for a package or
    device that is not there, BundleError or CheckpointError for a file that can't be used.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'; known: {', '.join(BACKENDS)}, auto")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device '{device}'; known: cpu, cuda, auto")
    if precision == BF16 and name not in ("native", "triton"):
        if name != "auto":
            raise InputError(f"the backend '{name}' has no precision 'bf16'; use 'native' on a CPU, 'triton' on a GPU")
        return _open("native", path, precision, device, threads)
    if name == "auto":
        return _open_best(path, precision, device, threads, trust_engines)
    if name == "tensorrt":
        return _open(name, path, precision, device, threads, trust_engines=trust_engines)
    return _open(name, path, precision, device, threads)


def _open(name: str, path: Path, precision: str, device: str, threads: int | None, **more: bool) -> Backend:
    if name == "torch" and not path.exists():  # said before PyTorch is imported, which takes seconds
        raise CheckpointError(f"no checkpoint at {path}; name the model.pt that your training wrote")
    module, class_name = BACKENDS[name]
    backend: Backend = getattr(import_module(module), class_name).open(path, precision, device, threads, **more)
    return backend


def _open_best(path: Path, precision: str, device: str, threads: int | None, trust_engines: bool) -> Backend:
    from .native_backend import open_native_if_there
    from .onnx_sessions import choose_device

    engine = None if device == "cpu" else _checked_engine(path, precision, device, trust_engines)
    if engine is not None:
        _log.info("auto chose tensorrt: an engine of %s was checked on a GPU and loads here", precision)
        return engine
    where = choose_device(device)
    native = open_native_if_there(path, precision, threads) if where == "cpu" else None
    if native is not None:
        _log.info("auto chose native: no GPU is used, and caan-native can score %s", precision)
        return native
    why = (
        "a GPU is used" if where != "cpu" else f"caan-native is not installed or can't score {precision} of this bundle"
    )
    _log.info("auto chose onnxruntime: no checked engine loads here, and %s", why)
    return _open("onnxruntime", path, precision, device, threads)


def _checked_engine(path: Path, precision: str, device: str, trust_engines: bool) -> Backend | None:
    if not has_checked_engine(path, precision):
        return None
    try:
        from .tensorrt.backend import TensorRTBackend

        return TensorRTBackend.open(path, precision, device, None, checked=True, trust_engines=trust_engines)
    except MissingError as error:
        _log.warning("the bundle's TensorRT engines are skipped: %s", error)
        return None
    except BundleError as error:
        _log.warning("the bundle's TensorRT engines are skipped: %s", error)
        warnings.warn(f"{error}; until then another backend is used", CaanWarning, stacklevel=5)
        return None
