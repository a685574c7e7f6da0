"""Float64 scores computed from states by the plain equations: the reference for the compiled scorer's rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..runtime import Gallery
from ..runtime.backends.scorer_weights import attention_scale, scorer_weights


def exact_scores(bundle: Bundle, images: Gallery, captions: Gallery) -> NDArray[np.float64]:
    """Scores (N, M) float64 of all pairs by the equations of docs/model.md; slow, so use it for a few items.

    Raises BundleError for an older bundle without the scorer's weights.
    """
    w_v, w_u = scorer_weights(bundle).astype(np.float64)
    scale = attention_scale(bundle)
    D, d = bundle.config["embed_dim"], bundle.config["attention_dim"]
    texts = [_parts(captions, j, [D, d, d]) for j in range(len(captions))]
    return np.array(
        [
            [_score(image, text, w_v, w_u, scale) for text in texts]
            for image in (_parts(images, i, [D, D, d, d]) for i in range(len(images)))
        ]
    )


def _parts(gallery: Gallery, item: int, widths: list[int]) -> list[NDArray[np.float64]]:
    """V, VK, VQ1, VQ2 and VQ6 of an image, U, UQ3, UQ4 and UQ5 of a caption."""
    states, lengths = gallery.gather(np.array([item]))
    return np.split(states[0, : lengths[0]].astype(np.float64), np.cumsum(widths), axis=1)


def _score(
    image: list[NDArray[np.float64]],
    text: list[NDArray[np.float64]],
    w_v: NDArray[np.float64],
    w_u: NDArray[np.float64],
    scale: float,
) -> Any:
    V, VK, VQ1, VQ2, VQ6 = image
    U, UQ3, UQ4, UQ5 = text
    H = scale * np.tanh(VK @ U.T)  # (R, T)
    Hu, Hv = _softmax(H, 1), _softmax(H, 0)
    A = Hu / np.linalg.norm(Hu, axis=1, keepdims=True)
    B = Hv / np.linalg.norm(Hv, axis=0, keepdims=True)
    Zv = np.tanh(VQ1 + A @ (A.T @ VQ2) + Hu @ UQ3)
    Zu = np.tanh(UQ4 + (B.T @ B) @ UQ5 + Hv.T @ VQ6)
    return (_softmax(Zv @ w_v, 0) @ V) @ (_softmax(Zu @ w_u, 0) @ U)


def _softmax(x: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    shares = np.exp(x - x.max(axis, keepdims=True))
    result: NDArray[np.float64] = shares / shares.sum(axis, keepdims=True)
    return result
