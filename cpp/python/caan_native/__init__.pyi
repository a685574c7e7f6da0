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

    @property
    def instruction_set(self) -> str:
        """The instruction set used here, by Highway's name: "AVX3_ZEN4", "AVX2", ..."""

def has_native_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions; without them "bf16" is slower than "fp32"."""

def measure_limits(threads: int) -> dict[str, float]:
    """This processor's peak rates per second on so many threads, measured in about a second: "fp32_flop" and
    "bf16_flop", a fused multiply-add counted as two operations, on registers; "fp32_tanh" and "bf16_tanh", the scorer's
    activation on numbers in the L1 cache.
    """
