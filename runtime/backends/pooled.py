"""Items pooled with the mean of their attention, for backends without a kernel for it: by the explainer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import Backend


class PoolsByExplaining:
    """`pool_images` and `pool_captions` of a backend that has `explain`."""

    def pool_images(self: Backend, tile: Any) -> NDArray[np.float32]:
        weights = self.explain(tile)["av"].mean(axis=1)  # (n, R), zeros in the padding
        return _pooled(weights, tile.image_states, self.model.config["embed_dim"])

    def pool_captions(self: Backend, tile: Any) -> NDArray[np.float32]:
        weights = self.explain(tile)["au"].mean(axis=0)  # (m, T)
        return _pooled(weights, tile.text_states, self.model.config["embed_dim"])


def _pooled(weights: NDArray[np.float32], states: NDArray[np.floating], dim: int) -> NDArray[np.float32]:
    result: NDArray[np.float32] = np.einsum("nr,nrd->nd", weights, states[..., :dim].astype(np.float32), optimize=False)
    return result
