from typing import Literal

import numpy as np
from numpy.typing import NDArray

class Scorer:
    """Scores all pairs of some images and captions on all its threads. Thread-safe: calls take turns.

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

        image_states (rows, 2D + 3d) and text_states (rows, D + 3d), each float32 or float16, C-contiguous, are read as
        they lie, without a copy: item i's are rows starts[i] to starts[i] + lengths[i]; starts and lengths (n,) and
        (m,). The GIL is free meanwhile.

        Raises ValueError for shapes that do not fit or an item that is not within the rows, TypeError for other dtypes
        or layouts.
        """

    @property
    def instruction_set(self) -> str:
        """What runs here, by Highway's names: "AVX3_ZEN4", "AVX2", ..."""

def has_native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; elsewhere "bf16" is slower than "fp32"."""

def measure_limits(threads: int) -> dict[str, float]:
    """What this processor does at most per second on so many threads, measured in about a second: "fp32_flop" and
    "bf16_flop", a fused multiply-add counted as two operations, on registers; "fp32_tanh" and "bf16_tanh", the scorer's
    own activation on numbers in the first cache.
    """
