"""Region boxes as fractions of their picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def relative_boxes(boxes: NDArray[Any], width: Any, height: Any) -> NDArray[np.float32]:
    """Boxes x0, y0, x1, y1 (…, 4) in pixels → float32 fractions of the picture.

    width, height: numbers, or arrays that broadcast against the boxes' (…, 1).
    """
    corners = np.asarray(boxes, np.float64)
    x, y = corners[..., 0::2] / width, corners[..., 1::2] / height  # (…, 2) each
    return np.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1).astype(np.float32)
