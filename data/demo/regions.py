"""Region boxes like a detector's, and region features computed only from the pixels inside.

All sums are over whole numbers that float64 holds exactly, so the features do not depend on threads, on the order of
additions or on the linear algebra library: the same pixels, the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .painting import Box, paint
from .scenes import sample_scene

if TYPE_CHECKING:
    from PIL.Image import Image

REGIONS = 12
_PATCH, _MARGIN = 20, 5
_KERNEL, _KERNELS = 5, 40
_TEXTURES, _PLANES, _GEOMETRY = 72, 48, 8
REGION_DIM = _TEXTURES + _PLANES + _GEOMETRY
_SAMPLE = 48
_SEED = 2020

_CELLS: tuple[Box, ...] = (
    (0.0, 0.0, 1.0, 1.0),
    (0.0, 0.0, 1.0, 0.5),
    (0.0, 0.5, 1.0, 1.0),
    (0.0, 0.0, 0.5, 0.5),
    (0.5, 0.0, 1.0, 0.5),
    (0.0, 0.5, 0.5, 1.0),
    (0.5, 0.5, 1.0, 1.0),
    (0.25, 0.25, 0.75, 0.75),
    (0.0, 0.4, 1.0, 0.65),
    (0.0, 0.8, 1.0, 1.0),
)


def region_boxes(objects: Sequence[Box], rng: Random) -> NDArray[np.float32]:
    """REGIONS boxes in shuffled order: jittered boxes of the objects, then background cells.

    Returns (REGIONS, 4) float32, x0, y0, x1, y1 in 0..1.
    """
    boxes = [_jitter(box, 0.05, rng) for box in objects][:REGIONS]
    cells = [_CELLS[i % len(_CELLS)] for i in range(REGIONS - len(boxes))]
    boxes += [_jitter(cell, 0.03, rng) for cell in cells]
    rng.shuffle(boxes)
    return np.array(boxes, dtype=np.float32)


def region_features(image: Image, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features of the pixels in each box. `boxes` (R, 4), as fractions; returns (R, REGION_DIM) float32."""
    mean, scale = _typical()
    return ((_raw_features(image, boxes) - mean) / scale).astype(np.float32)


def _jitter(box: Box, share: float, rng: Random) -> Box:
    x0, y0, x1, y1 = box
    dx, dy = share * (x1 - x0), share * (y1 - y0)
    moved = (v + rng.uniform(-d, d) for v, d in zip(box, (dx, dy, dx, dy), strict=True))
    x0, y0, x1, y1 = (min(1.0, max(0.0, v)) for v in moved)
    return x0, y0, x1, y1


def _raw_features(image: Image, boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    width, height = image.size
    sides = boxes.astype(np.float64)
    patches = np.stack([_patch(image, box * (width, height, width, height)) for box in sides])  # (R, P, P, 3)
    x0, y0, x1, y1 = sides.T
    geometry = np.stack([x0, y0, x1, y1, (x0 + x1) / 2, x1 - x0, y1 - y0, (x1 - x0) * (y1 - y0)], axis=1)
    return np.concatenate([_textures(patches), _colours(patches), geometry], axis=1)


def _patch(image: Image, box: NDArray[np.float64]) -> NDArray[np.float64]:
    from PIL.Image import Resampling

    x0, y0, x1, y1 = box.tolist()
    return np.asarray(image.resize((_PATCH, _PATCH), Resampling.BILINEAR, box=(x0, y0, x1, y1)), dtype=np.float64)


def _textures(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Random convolution, rectified, summed over a 3 × 3 grid, mixed. Returns (R, _TEXTURES)."""
    kernels, _, _, mixing = _weights()
    # No sum here exceeds 2**24: float32 holds it exactly
    whole = patches.astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (_KERNEL, _KERNEL), axis=(1, 2))
    regions, side = len(patches), _PATCH - _KERNEL + 1
    # A few rows at a time, below the size at which BLAS starts threads, which would cost more than they gain here
    pieces = windows.reshape(regions * 4, side * side // 4, 3 * _KERNEL**2)
    maps = np.abs(pieces @ kernels.astype(np.float32)).reshape(regions, side, side, _KERNELS)
    third = -(-side // 3)
    thirds = [slice(start, start + third) for start in range(0, side, third)]
    cells = np.stack(
        [maps[:, rows, columns].sum(axis=(1, 2), dtype=np.float64) for rows in thirds for columns in thirds]
    )
    mixed: NDArray[np.float64] = (_root(cells) @ mixing).sum(axis=0)  # (9, R, _KERNELS) @ (9, _KERNELS, _TEXTURES)
    return mixed


def _colours(patches: NDArray[np.float64]) -> NDArray[np.float64]:
    """Summed distances of the inner pixels into random half spaces of the colour cube. Returns (R, _PLANES)."""
    _, normals, offsets, _ = _weights()
    inner = patches[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN].reshape(len(patches), -1, 3)
    return _root(np.maximum(inner @ normals - offsets, 0.0).sum(axis=1))


def _root(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Integer square roots: else strong edges and bright colours would dominate."""
    return np.floor(np.sqrt(sums))


@cache
def _weights() -> tuple[NDArray[np.float64], ...]:
    """Kernels (3 · 25, _KERNELS), plane normals (3, _PLANES) and offsets (_PLANES,), mixing (9, _KERNELS, _TEXTURES).

    All are integers.
    """
    rng = np.random.Generator(np.random.PCG64(_SEED))
    spatial = rng.integers(-4, 5, (_KERNEL**2, _KERNELS))
    spatial = spatial * _KERNEL**2 - spatial.sum(axis=0)  # blind to flat colour
    channels = rng.integers(-2, 3, (3, _KERNELS))
    channels[:, : _KERNELS // 2] = 1
    kernels = (channels[:, None] * spatial).reshape(3 * _KERNEL**2, _KERNELS)
    normals = rng.integers(-4, 5, (3, _PLANES))
    offsets = (normals * rng.integers(40, 216, (3, _PLANES))).sum(axis=0)
    mixing = rng.integers(-1, 2, (9, _KERNELS, _TEXTURES))
    return tuple(array.astype(np.float64) for array in (kernels, normals, offsets, mixing))


@cache
def _typical() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (REGION_DIM,) of the raw features over a fixed sample of scenes."""
    rows = []
    for number in range(_SAMPLE):
        rng = Random(f"typical scene {number}")
        image, objects = paint(sample_scene(rng))
        rows.append(_raw_features(image, region_boxes(objects, rng)))
    raw = np.concatenate(rows)  # (_SAMPLE · REGIONS, REGION_DIM)
    return raw.mean(axis=0), raw.std(axis=0)
