"""What a backend is, and which there are.

A new backend is a class with these four methods and a line in BACKENDS (CONTRIBUTING.md).
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..data.vocabulary import Vocabulary
from ..errors import InputError


class Backend(Protocol):
    """The three graphs of one model, run by somebody. All arrays are NumPy's, C-contiguous; lengths are int64."""

    name: str
    device: str  # "cpu" or "cuda"
    precision: str
    config: dict[str, Any]
    limits: dict[str, int]  # "regions" and "words": the most that one item may have
    vocabulary: Vocabulary
    encoders: dict[str, str]  # "image" and "text": hash of what makes the states

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """features (n, R, F) → image states (n, R, 2D + 3d)."""

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """tokens (m, T), lengths (m,) → text states (m, T, D + 3d)."""

    def score(
        self,
        image_states: NDArray[np.float32],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.float32],
        text_lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """States of n images (n, R, 2D + 3d) and m captions (m, T, D + 3d) → scores (n, m)."""


# Module and class by name: nothing is imported before it is asked for. "torch" lives in model/, the room that may
# import PyTorch; the runtime never does.
BACKENDS = {
    "onnxruntime": ("caan.runtime.onnx_backend", "OnnxBackend"),
    "torch": ("caan.model.backend", "TorchBackend"),
}


def open_backend(name: str, path: Path, precision: str, device: str, threads: int | None) -> Backend:
    """Open a bundle (or, for `torch`, a checkpoint) with a backend. `auto` takes the fastest that is installed.

    Raises InputError for an unknown name, MissingError for a package or device that is not there, BundleError or
    CheckpointError for a file that can't be used.
    """
    if name == "auto":
        name = "onnxruntime"
    if name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'; known: {', '.join(BACKENDS)}, auto")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device '{device}'; known: cpu, cuda, auto")
    module, class_name = BACKENDS[name]
    backend: Backend = getattr(import_module(module), class_name).open(path, precision, device, threads)
    return backend
