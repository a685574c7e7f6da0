"""Backend `triton`: the scorer as one fused kernel on an NVIDIA GPU; everything else in ONNX Runtime.

Experimental: runs in Triton's interpreter, has run on no GPU yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....bundle import Bundle
from ....errors import CaanError, InputError, MissingError, needs
from ...casting import convert
from ..contract import BF16, KernelTiles, Layout, Tile, Tiles
from ..device_cache import DeviceCache
from ..from_bundle import open_precision
from ..onnxruntime.backend import OnnxBackend
from ..pooled import PoolsByExplaining
from ..scorer_weights import attention_scale, model_hashes, scorer_weights

if TYPE_CHECKING:
    import torch

# Precision → precision of the encoder graphs, and dtype of the kernel's products.
PRECISIONS = {"fp32": ("fp32", "float32"), "fp16": ("fp16", "float16"), BF16: ("fp32", "bfloat16")}
# Most bytes to copy into one tile.
_COPY_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
# The oldest GPUs that Triton supports, by compute capability.
OLDEST = (8, 0)
# Share of the device memory free when the first tile is cached. A copy may be twice the size of its array.
_RESIDENT_SHARE = 0.3
# Tiles in flight: while the GPU scores one, the next is being copied.
_IN_FLIGHT = 2


class TritonBackend(PoolsByExplaining):
    """The scorer in Triton, encoders and explainer as ONNX graphs. Thread-safe.

    A tile with more regions × words than fit the kernel's registers is scored by the scorer graph instead.
    """

    name = "triton"
    layouts: Sequence[Layout | None] = ()

    def __init__(self, bundle: Bundle, precision: str, device: str, threads: int | None) -> None:
        import torch

        weights, self._scale = scorer_weights(bundle), attention_scale(bundle)
        graphs, dtype = PRECISIONS[precision]
        # If ONNX Runtime can't use the GPU, encoding runs on the CPU; its cost is small compared to scoring.
        self._graphs = OnnxBackend(bundle, graphs, "auto", threads)
        self.device, self.precision = device, precision
        self.model, self.state_dtype = self._graphs.model, self._graphs.state_dtype
        self.tiles: Tiles = KernelTiles(_COPY_BYTES[device])
        self.process_bound = "a GPU" if device == "cuda" else ""
        self._dtype = getattr(torch, dtype)
        self._weights = torch.from_numpy(weights).to(device)
        self._residents: DeviceCache[torch.Tensor] = DeviceCache(self._resident_bytes)
        model = model_hashes(bundle, graphs)
        self.fingerprint = f"triton {_versions()} {_gpu_name(device)} {precision} {model}"

    @classmethod
    def open(cls, path: Path, precision: str, device: str, threads: int | None) -> TritonBackend:
        """Open a bundle. threads: of the encoders on the CPU.

        Raises InputError for an unsupported precision or device, MissingError if this machine lacks a package or GPU,
        BundleError for a bundle exported before bundles held the scorer's weights.
        """
        if precision not in PRECISIONS:
            raise InputError(
                f"the backend 'triton' scores in {', '.join(PRECISIONS)}, not in {precision}; use another backend"
            )
        chosen = _choose_device(device)
        return open_precision(path, PRECISIONS[precision][0], lambda bundle: cls(bundle, precision, chosen, threads))

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        return self._graphs.encode_images(features)

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._graphs.encode_captions(tokens, lengths)

    def score_tiles(self, tiles: Iterable[Tile], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        """As `Backend`. Captions shared by consecutive tiles are sent once, so they must not change meanwhile.

        Raises CaanError if the GPU's memory is full.
        """
        in_flight: deque[torch.Tensor] = deque()
        texts: _Texts | None = None
        for tile in tiles:
            if texts is None or not texts.match(tile):
                texts = _Texts(tile.text_states, tile.text_lengths)
            in_flight.append(self._start(tile, texts))
            if len(in_flight) == _IN_FLIGHT:
                yield in_flight.popleft().cpu().numpy()
        while in_flight:
            yield in_flight.popleft().cpu().numpy()

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        return self._graphs.explain(tile)

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._graphs.expand_regions(regions)

    def _start(self, tile: Tile, texts: _Texts) -> torch.Tensor:
        """Launch a tile; the returned scores may still be in flight."""
        import torch

        from .launch import TooLargeError, score_states

        try:
            if texts.on_device is None:
                texts.on_device = self._to_device(texts.states), self._to_device(texts.lengths)
            images, lengths = self._to_device(tile.image_states), self._to_device(tile.image_lengths)
            return score_states(images, lengths, *texts.on_device, weights=self._weights, scale=self._scale)
        except TooLargeError:
            image_states, text_states = (convert(states, self.state_dtype) for states in (tile[0], tile[2]))
            (scores,) = self._graphs.score_tiles([tile._replace(image_states=image_states, text_states=text_states)])
            return torch.from_numpy(scores)
        except torch.OutOfMemoryError as error:
            raise CaanError(
                "the GPU's memory is full; close other programs on it, or use backend 'onnxruntime'"
            ) from error

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        """A device copy of an array, states in the dtype of the kernel's products."""
        resident = self._residents.find(array)
        if resident is not None:
            return resident
        import torch

        # Via pinned memory the copy does not wait for the GPU, which may still be scoring the previous tile.
        on_gpu = self.device == "cuda"
        staged = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=on_gpu)
        staged.numpy()[...] = array
        tensor = staged.to(self.device, non_blocking=True)
        if tensor.is_floating_point():
            tensor = tensor.to(self._dtype)
        if self._residents.should_keep(array):
            self._residents.keep(array, tensor)
        return tensor

    def _resident_bytes(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info()[0] * _RESIDENT_SHARE) if self.device == "cuda" else 0


@dataclass
class _Texts:
    """A tile's captions, and their device copies once made."""

    states: NDArray[np.floating]
    lengths: NDArray[np.int64]
    on_device: tuple[torch.Tensor, torch.Tensor] | None = None

    def match(self, tile: Tile) -> bool:
        return self.states is tile.text_states and np.array_equal(self.lengths, tile.text_lengths)


def _choose_device(device: str) -> str:
    """`cuda`; in Triton's interpreter, `cpu`. Raises InputError for device `cpu`, MissingError without a usable GPU."""
    with needs("triton", "the backend 'triton'"):
        import torch
        import triton
    if triton.knobs.runtime.interpret:
        return "cpu"
    if device == "cpu":
        raise InputError("the backend 'triton' runs on device 'cuda'; on 'cpu' use backend 'onnxruntime'")
    if not torch.cuda.is_available():
        raise MissingError(
            "the backend 'triton' needs an NVIDIA GPU and a PyTorch built for CUDA, which sees none here; see caan"
            " doctor, or use backend 'onnxruntime'"
        )
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        raise MissingError(
            f"the backend 'triton' needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer, this one has"
            f" {capability[0]}.{capability[1]}; use backend 'onnxruntime'"
        )
    return "cuda"


def _versions() -> str:
    import torch
    import triton

    return f"{triton.__version__} torch {torch.__version__}"


def _gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else "interpreted"
