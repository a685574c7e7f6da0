"""The backend contract: the attributes and methods every backend has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...data.vocabulary import Vocabulary
from ...sketch import BundleSketch
from ...tiling import TileSize
from ..galleries.rows import Dtype

# No graphs have this precision; the backends `native` and `triton` multiply the states of FP32 graphs in it.
BF16 = "bf16"


class Tile(NamedTuple):
    """Some images × some captions for one scorer call. Fields are named after the scorer's inputs."""

    image_states: NDArray[np.floating]  # (n, R, 2D + 3d)
    image_lengths: NDArray[np.int64]  # (n,)
    text_states: NDArray[np.floating]  # (m, T, D + 3d)
    text_lengths: NDArray[np.int64]  # (m,)


class RowTile(NamedTuple):
    """The same, read in place: item i's states are rows starts[i]:starts[i] + lengths[i]."""

    image_states: NDArray[Any]  # (rows, 2D + 3d), or as stored
    image_starts: NDArray[np.int64]  # (n,)
    image_lengths: NDArray[np.int64]  # (n,)
    text_states: NDArray[Any]  # (rows, D + 3d), or as stored
    text_starts: NDArray[np.int64]  # (m,)
    text_lengths: NDArray[np.int64]  # (m,)


class Layout(NamedTuple):
    """How scorer calls share the CPU's cores: `workers` calls at a time, each with `threads` threads."""

    workers: int
    threads: int


class GraphTiles(NamedTuple):
    """A graph scores `Tile`s with states in the backend's dtype, as large as memory for intermediates allows."""

    # (regions, words) → the largest tiles for items up to these lengths; empty: limited only by memory.
    limits: Callable[[int, int], Sequence[TileSize]] = lambda regions, words: ()


class KernelTiles(NamedTuple):
    """A kernel scores `Tile`s of any size, states float16 or float32, without writing intermediates to memory."""

    copy_bytes: int  # most bytes to copy into one tile


class KernelRows(NamedTuple):
    """A kernel scores `RowTile`s of any size, reading states in place, as these galleries store them."""

    dtypes: Collection[Dtype] = ("float16", "float32")


Tiles = GraphTiles | KernelTiles | KernelRows


@dataclass(frozen=True)
class Model:
    """The opened model, independent of what runs it."""

    config: Mapping[str, Any]  # the checkpoint's
    limits: Mapping[str, int]  # "regions" and "words": the most one item may have
    vocabulary: Vocabulary
    encoders: Mapping[str, str]  # "image" and "text": hash of the encoder graph or checkpoint
    sketch: BundleSketch | None = None  # the bundle's, if it has one


class Backend(Protocol):
    """Runs a model's encoders and scorer. All arrays are NumPy's, C-contiguous; lengths are int64.

    States are of `state_dtype`, features and scores float32.
    """

    name: str
    device: str  # "cpu" or "cuda"
    precision: str
    model: Model
    state_dtype: np.dtype[Any]  # float32 or float16
    tiles: Tiles  # what `score_tiles` takes
    # Layouts worth timing, default first; None: the backend's own. Empty: nothing to tune.
    layouts: Sequence[Layout | None]
    fingerprint: str  # what speed depends on besides the machine: library and version, device, precision, model
    process_bound: str  # what a forked process can't use, such as "a GPU"; empty if it can use everything

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        """features (n, R, F) → image states (n, R, 2D + 3d)."""

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        """tokens (m, T), lengths (m,) → text states (m, T, D + 3d)."""

    def score_tiles(self, tiles: Iterable[Any], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        """Scores (n, m) of each `Tile` or `RowTile` (see the attribute `tiles`), in order; layout: one of `layouts`.

        A backend may consume a tile or two before it yields the first result, to overlap copies and scoring.
        Image states that are read-only views may be cached on a device for later calls.
        """

    def pool_images(self, tile: Any) -> NDArray[np.float32]:
        """(n, D): each image's V weighted with the mean of its av over the tile's captions, always in FP32.

        tile: as for `score_tiles`. An image's result does not depend on the other images.
        """

    def pool_captions(self, tile: Any) -> NDArray[np.float32]:
        """(m, D): each caption's U weighted with the mean of its au over the tile's images; otherwise as above."""

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        """A tile's scores (n, m) and intermediates: H, Hu, Hv (n, m, R, T), av (n, m, R) and au (n, m, T).

        Padding is zero. States may be float16; everything else is always FP32.
        """

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Regions (n, R, D), the first columns of image states → complete states (n, R, 2D + 3d), in FP32."""
