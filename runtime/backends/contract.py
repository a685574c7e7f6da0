"""What a backend is: the attributes and methods that every one has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ...data.vocabulary import Vocabulary
from ...tiling import TileSize

# No graphs are of this precision: the backends `native` and `triton` multiply states of FP32 graphs in it.
BF16 = "bf16"


class Tile(NamedTuple):
    """Some images × some captions for one scorer call. The fields are called as the scorer's inputs are."""

    image_states: NDArray[np.floating]  # (n, R, 2D + 3d)
    image_lengths: NDArray[np.int64]  # (n,)
    text_states: NDArray[np.floating]  # (m, T, D + 3d)
    text_lengths: NDArray[np.int64]  # (m,)


class RowTile(NamedTuple):
    """The same, read in place: item i's states are the rows starts[i] to starts[i] + lengths[i]."""

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


class GraphTiles(NamedTuple):
    """A graph scores `Tile`s, states in the backend's type: as large as the memory for intermediates allows."""

    # The largest tiles for items of up to so many (regions, words); none: memory alone limits them.
    limits: Callable[[int, int], Sequence[TileSize]] = lambda regions, words: ()


class KernelTiles(NamedTuple):
    """A kernel scores `Tile`s of any size, states float16 or float32: it writes no intermediates to memory."""

    copy_bytes: int  # the most that is copied into one tile


class KernelRows(NamedTuple):
    """A kernel scores `RowTile`s of any size, states float16 or float32, which it reads in place."""


Tiles = GraphTiles | KernelTiles | KernelRows


@dataclass(frozen=True)
class Model:
    """What a backend has opened, whatever runs it."""

    config: Mapping[str, Any]  # as the checkpoint held it
    limits: Mapping[str, int]  # "regions" and "words": the most that one item may have
    vocabulary: Vocabulary
    encoders: Mapping[str, str]  # "image" and "text": hash of what makes the states


class Backend(Protocol):
    """The three graphs of one model, run by somebody. All arrays are NumPy's, C-contiguous; lengths are int64.

    States are of `state_dtype`, features and scores float32.
    """

    name: str
    device: str  # "cpu" or "cuda"
    precision: str
    model: Model
    state_dtype: np.dtype[Any]  # float32 or float16
    tiles: Tiles  # what `score_tiles` takes
    # Ways to run the scorer that are worth timing, the default first; None: the backend's own. Empty: nothing to tune.
    layouts: Sequence[Layout | None]
    fingerprint: str  # what its speed depends on, besides the machine: library and version, device, precision, model
    process_bound: str  # what a forked process can't use, as "a GPU"; empty if it works there

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        """features (n, R, F) → image states (n, R, 2D + 3d)."""

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        """tokens (m, T), lengths (m,) → text states (m, T, D + 3d)."""

    def score_tiles(self, tiles: Iterable[Any], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        """Scores (n, m) of each `Tile` or `RowTile`, as `tiles` says, in their order; `layout`: one of `layouts`.

        A backend may take a tile or two before it yields the first result: their copies overlap with the scoring.
        Image states that are read-only views may stay on a device for the next call.
        """

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        """What the scorer computes for a tile: scores (n, m), H, Hu, Hv (n, m, R, T), av (n, m, R) and au (n, m, T).

        Zero where padded. States may be float16; everything else is FP32 whatever the precision.
        """

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Regions (n, R, D), the first columns of image states → the whole states (n, R, 2D + 3d), in FP32."""
