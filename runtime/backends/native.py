"""Backend `native`: the scorer compiled for this CPU (cpp/kernels), the encoders as ONNX graphs on the CPU."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._machine import chosen_threads
from ...bundle import SCORER_WEIGHTS, Bundle, read_manifest
from ...errors import CaanWarning, InputError, MissingError
from .contract import BF16, KernelRows, Layout, RowTile, Tiles
from .from_bundle import open_precision
from .onnxruntime.encoders import OnnxEncoders
from .scorer_weights import attention_scale, model_hashes, scorer_weights

# Precision → precision of the encoder graphs. In bf16 the scorer rounds the factors of its products.
PRECISIONS = {"fp32": "fp32", BF16: "fp32", "fp16": "fp16"}
BUILD = "make native, or pip install ./cpp/python in a checkout"


class NativeBackend(OnnxEncoders):
    """The scorer in C++, which keeps in the CPU's caches what a graph writes to memory for every pair.

    Thread-safe: calls run one at a time, each on all of the scorer's threads.
    """

    name = "native"
    layouts: Sequence[Layout | None] = ()

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        super().__init__(bundle, PRECISIONS[precision], "cpu", threads)
        weights, scale = scorer_weights(bundle), attention_scale(bundle)
        self.precision = precision
        # Older builds of the package read none but these two.
        self.tiles: Tiles = KernelRows(getattr(_module(), "STATE_TYPES", ("float16", "float32")))
        self.threads = chosen_threads(threads)
        self._new_scorer = partial(
            _module().Scorer,
            self.model.config["embed_dim"],
            self.model.config["attention_dim"],
            scale,
            *weights,
        )
        self._open_scorers()
        model = model_hashes(bundle, PRECISIONS[precision])
        self.fingerprint = f"native {_version()} {self._scorer.instruction_set} {precision} {model}"

    @classmethod
    def open(cls, path: Path, precision: str, device: str, threads: int | None) -> NativeBackend:
        """Open a bundle.

        Raises InputError for an unsupported precision or device, MissingError without the package or, for bf16, the
        CPU instructions, BundleError for a bundle without the scorer's weights.
        """
        if precision not in PRECISIONS:
            raise InputError(
                f"the backend 'native' scores in {', '.join(PRECISIONS)}, not in {precision}; use backend 'onnxruntime'"
            )
        if device == "cuda":
            raise InputError("the backend 'native' runs on device 'cpu'; on 'cuda' use 'triton' or 'onnxruntime'")
        if precision == BF16 and not _module().has_native_bfloat16():
            raise MissingError("this processor has no instructions for bfloat16 (AVX512-BF16, AMX); use precision fp32")
        return open_precision(path, PRECISIONS[precision], lambda bundle: cls(bundle, precision, threads))

    def score_tiles(self, tiles: Iterable[RowTile], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        for tile in tiles:
            scores = np.empty((len(tile.image_lengths), len(tile.text_lengths)), np.float32)
            self._process_scorer().score(*tile, scores)
            yield scores

    def processor_limits(self) -> dict[str, float]:
        """The CPU's peak rates on this number of threads: `caan_native.measure_limits`."""
        limits: dict[str, float] = _module().measure_limits(self.threads)
        return limits

    def pool_images(self, tile: RowTile) -> NDArray[np.float32]:
        pooled: NDArray[np.float32] = self._process_pooler().pool_images(*tile)
        return pooled

    def pool_captions(self, tile: RowTile) -> NDArray[np.float32]:
        pooled: NDArray[np.float32] = self._process_pooler().pool_captions(*tile[3:], *tile[:3])
        return pooled

    def _process_scorer(self) -> Any:
        """This process's scorer: after a fork, the threads of the parent's scorer do not exist."""
        if self._process != os.getpid():
            self._open_scorers()
        return self._scorer

    def _process_pooler(self) -> Any:
        """The scorer for pooling: in FP32, so that sketches do not depend on the precision."""
        self._process_scorer()
        return self._pooler

    def _open_scorers(self) -> None:
        self._scorer = self._new_scorer(BF16 if self.precision == BF16 else "fp32", self.threads)
        self._pooler = self._new_scorer("fp32", self.threads) if self.precision == BF16 else self._scorer
        self._process = os.getpid()


def open_native_if_installed(path: Path, precision: str, threads: int | None) -> NativeBackend | None:
    """The backend, if package, bundle and precision allow it; else None.

    CaanWarning if the package is installed but does not load. Raises BundleError for an unusable bundle.
    """
    if precision not in PRECISIONS or path.is_file():
        return None
    try:
        import caan_native  # noqa: F401
    except ImportError as error:
        if not is_absence(error):
            warnings.warn(f"{_broken(error)}; until then onnxruntime is used", CaanWarning, stacklevel=5)
        return None
    if SCORER_WEIGHTS not in read_manifest(path)["files"]:
        return None
    return NativeBackend.open(path, precision, "cpu", threads)


def _module() -> Any:
    try:
        import caan_native
    except ImportError as error:
        if is_absence(error):
            raise MissingError(f"the backend 'native' needs the package 'caan_native'; build it: {BUILD}") from error
        raise MissingError(_broken(error)) from error
    return caan_native


def is_absence(error: ImportError) -> bool:
    """Whether the import failed because caan_native is not installed."""
    return isinstance(error, ModuleNotFoundError) and error.name == "caan_native"


def _broken(error: ImportError) -> str:
    return f"the package 'caan_native' is installed but does not load ({error}); build it: {BUILD}"


def _version() -> str:
    try:
        return metadata.version("caan-native")
    except metadata.PackageNotFoundError:
        return "unknown"
