"""A pair's arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PairWork:
    """Average cost of a pair, in the cheapest order of products."""

    flop: float  # a multiply-add counted as 2
    tanh: float


def pair_work(config: Mapping[str, Any], regions: NDArray[np.int64], words: NDArray[np.int64]) -> PairWork:
    """Average over all pairs of images with these regions and captions with these words (docs/performance.md).

    2RTD (H) + 6RTd (Zv) + 2T²d + 2RTd (Zu) + 2(R + T)D (the pooled product), and (R + T)d + RT tanh.
    """
    dim, wide = config["embed_dim"], config["attention_dim"]
    r, t, squares = float(regions.mean()), float(words.mean()), float((words.astype(np.float64) ** 2).mean())
    flop = r * t * (2 * dim + 8 * wide) + 2 * squares * wide + 2 * (r + t) * dim
    return PairWork(flop, (r + t) * wide + r * t)
