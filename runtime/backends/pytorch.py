"""Backend `torch`: the reference, PyTorch running the checkpoint directly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._files import sha256_of
from ..._machine import chosen_threads
from ...bundle import MAX_REGIONS, MAX_WORDS
from ...errors import CheckpointError, InputError, MissingError, needs

with needs("export", "the backend 'torch'"):
    import torch

from ...model.checkpoint import Checkpoint, load_checkpoint
from .contract import GraphTiles, Layout, Model, Tiles
from .pooled import PoolsByExplaining


class TorchBackend(PoolsByExplaining):
    """CAAN in PyTorch with precomputed states, float32."""

    name = "torch"
    state_dtype = np.dtype(np.float32)
    tiles: Tiles = GraphTiles()
    layouts: Sequence[Layout | None] = ()  # the reference is not tuned
    process_bound = "PyTorch"

    def __init__(self, checkpoint: Checkpoint, identity: str, device: str, threads: int | None) -> None:
        torch.set_num_threads(chosen_threads(threads))
        self.precision = "fp32"
        self.device = device
        self.module = checkpoint.model.to(device)
        self.model = Model(
            self.module.config.as_dict(),
            {"regions": MAX_REGIONS, "words": MAX_WORDS},
            checkpoint.vocabulary,
            {"image": identity, "text": identity},
        )
        self.fingerprint = f"torch {torch.__version__} {device} {identity}"

    @classmethod
    def open(cls, path: Path, precision: str, device: str, threads: int | None) -> TorchBackend:
        if path.is_dir():
            raise CheckpointError(f"{path} is a folder; the backend 'torch' takes the checkpoint itself, model.pt")
        if precision != "fp32":
            raise InputError(f"the backend 'torch' is the fp32 reference, not {precision}")
        if device == "cuda" and not torch.cuda.is_available():
            raise MissingError("PyTorch sees no CUDA device; use device 'cpu'")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(load_checkpoint(path), sha256_of(path), device, threads)

    @torch.inference_mode()
    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._back(self.module.image_states(self._to(features)))

    @torch.inference_mode()
    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._back(self.module.text_states(self._to(tokens), self._to(lengths)))

    def score_tiles(
        self, tiles: Iterable[tuple[NDArray[Any], ...]], layout: Any = None
    ) -> Iterator[NDArray[np.float32]]:
        return starmap(self.score, tiles)

    @torch.inference_mode()
    def explain(self, tile: tuple[NDArray[Any], ...]) -> dict[str, NDArray[np.float32]]:
        tensors = self.module.explain_states(*(self._to(array) for array in tile))
        return {name: self._back(values) for name, values in tensors._asdict().items()}

    @torch.inference_mode()
    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._back(self.module.expand_regions(self._to(regions)))

    @torch.inference_mode()
    def score(
        self,
        image_states: NDArray[np.floating],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.floating],
        text_lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        arrays = (image_states, image_lengths, text_states, text_lengths)
        return self._back(self.module.score_states(*(self._to(array) for array in arrays)))

    def _to(self, array: NDArray[Any]) -> torch.Tensor:
        # from_numpy warns about read-only arrays, such as a memory-mapped gallery's; nothing here writes to them.
        source = array if array.flags.writeable else _as_writeable(array)
        return torch.from_numpy(source).to(self.device)

    @staticmethod
    def _back(tensor: torch.Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = tensor.float().cpu().numpy()
        return array


def content_of(path: Path) -> str:
    """A checkpoint's `digest`, which does not depend on the form of its file. Raises as `load_checkpoint`."""
    return load_checkpoint(path).digest()


def _as_writeable(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, declared writeable, without a copy."""
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)

    class _View:
        __array_interface__ = interface

    return np.asarray(_View())
