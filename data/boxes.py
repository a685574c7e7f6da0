"""Region boxes as fractions of their picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def relative_boxes(boxes: NDArray[Any], width: Any, height: Any) -> NDArray[np.float32]:
    """Boxes x0, y0, x1, y1 (…, 4) in pixels → float32 fractions of the picture, within 0..1.

    width, height: numbers, or arrays that broadcast against (…, 1).
    """
    sides = np.concatenate(np.broadcast_arrays(width, height, width, height), axis=-1) if np.ndim(width) else None
    scale = np.array([width, height] * 2, np.float64) if sides is None else sides
    return (np.asarray(boxes, np.float64) / scale).clip(0, 1).astype(np.float32)
