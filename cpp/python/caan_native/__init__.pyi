from typing import Literal

import numpy as np
from numpy.typing import NDArray

STATE_TYPES: tuple[Literal["float16", "float32", "bfloat16", "int8"], ...]
"""How states may be stored that a `Scorer` reads."""

class Scorer:
    """Scores all pairs of images and captions on all its threads. Thread-safe: calls are serialized.

    w_v, w_u: (d,) float32, copied. Raises ValueError for sizes that do not fit.
    """

    def __init__(
        self,
        embed_dim: int,
        attention_dim: int,
        attention_scale: float,
        w_v: NDArray[np.float32],
        w_u: NDArray[np.float32],
        precision: Literal["fp32", "bf16"],
        threads: int,
    ) -> None: ...
    def score(
        self,
        image_states: NDArray[np.floating | np.unsignedinteger],
        image_starts: NDArray[np.int64],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.floating | np.unsignedinteger],
        text_starts: NDArray[np.int64],
        text_lengths: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        """Write the score of each of n images with each of m captions to `scores` (n, m).

        image_states (rows, 2D + 3d) and text_states (rows, D + 3d), each float32, float16 or, as uint16, the bits of
        bfloat16; or uint8 rows of int8 states: a float32 scale per matrix (V, VK, VQ1, VQ2, VQ6: 20 bytes; U, UQ3, UQ4,
        UQ5: 16), then an int8 per column, to be multiplied by its matrix's scale. C-contiguous, at any address; they
        are read in place, without a copy: item i is rows starts[i] to starts[i] + lengths[i]; starts and lengths (n,)
        and (m,). The GIL is released meanwhile.

        Raises ValueError for shapes that do not match or items outside the rows, TypeError for other dtypes or layouts.
        """

    def attend(
        self,
        image_states: NDArray[np.floating],
        image_starts: NDArray[np.int64],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.floating],
        text_starts: NDArray[np.int64],
        text_lengths: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The pooling weights of each pair, as `score` computes them: av (n, m, longest image) of the regions and au
        (n, m, longest caption) of the words, each normalized to a sum of 1, 0 beyond an item's length, NaN where the
        score is. Items, errors and the GIL as for `score`.
        """

    def pool_images(
        self,
        image_states: NDArray[np.floating],
        image_starts: NDArray[np.int64],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.floating],
        text_starts: NDArray[np.int64],
        text_lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """pooled (n, D): each image's V weighted with the mean of its av over the captions, at less than the price of
        scoring them. The bits of an image's result depend neither on the other images nor on threads.

        Items, errors and the GIL as for `score`; ValueError also if there are no captions.
        """

    def pool_captions(
        self,
        text_states: NDArray[np.floating],
        text_starts: NDArray[np.int64],
        text_lengths: NDArray[np.int64],
        image_states: NDArray[np.floating],
        image_starts: NDArray[np.int64],
        image_lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """pooled (m, D): each caption's U weighted with the mean of its au over the images; otherwise as above."""

    @property
    def instruction_set(self) -> str:
        """The instruction set used here, by Highway's name: "AVX3_ZEN4", "AVX2", ..."""

class Scanner:
    """Finds the sketches with the largest products on all its threads. Thread-safe: calls are serialized."""

    def __init__(self, threads: int) -> None: ...
    def best(
        self,
        sketches: NDArray[np.int8],
        queries: NDArray[np.int16],
        n: int,
        skip: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Indices and sums (queries, n) of the n largest products of sketches (N, columns) with each of queries
        (queries, columns): in falling order, equal ones by index, as a stable sort makes it. Fewer than n if so few are
        left: skip (N,) leaves out those that are not 0. columns: 16, 32, ... 512. All may be read-only, memory-mapped
        or unaligned, and are read once for all queries. The GIL is released meanwhile.

        Raises ValueError for shapes that do not match, -32768 in queries, more than 2**32 - 1 sketches; TypeError for
        other dtypes or layouts.
        """

def project(pooled: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """pooled (n, D) @ matrix (D, columns), each number summed in the order of D: a row's bits depend neither on the
    other rows nor on threads, only on the instruction set. Raises ValueError or TypeError as `Scorer.score`.
    """

def quantize(projected: NDArray[np.float32], steps: NDArray[np.float32]) -> NDArray[np.int8]:
    """projected (n, columns) / steps (columns,), rounded to the nearest integer, halves to even, and limited to -127 to
    127. Raises ValueError for NaN, and for a step that is not finite and above 0; TypeError for other dtypes.
    """

def has_native_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions; without them "bf16" is slower than "fp32"."""

def measure_limits(threads: int) -> dict[str, float]:
    """This processor's peak rates per second on so many threads, measured in about a second: "fp32_flop" and
    "bf16_flop", a fused multiply-add counted as two operations, on registers; "fp32_tanh" and "bf16_tanh", the scorer's
    activation on numbers in the L1 cache.
    """
