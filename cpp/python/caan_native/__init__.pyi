from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
        image_states: NDArray[np.floating],
        image_starts: NDArray[np.int64],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.floating],
        text_starts: NDArray[np.int64],
        text_lengths: NDArray[np.int64],
        scores: NDArray[np.float32],
    ) -> None:
        """Write the score of each of n images with each of m captions to `scores` (n, m).

        image_states (rows, 2D + 3d) and text_states (rows, D + 3d), each float32 or float16, C-contiguous, are read in
        place, without a copy: item i is rows starts[i] to starts[i] + lengths[i]; starts and lengths (n,) and (m,). The
        GIL is released meanwhile.

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
