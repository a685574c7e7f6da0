"""Drawing with Pillow in a shape's own coordinates: outlined polygons, ovals, limbs and smooth blobs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

_SEGMENTS = 24
_OUTLINE: Rgb = (52, 44, 58)
_CIRCLE = [(math.cos(t), math.sin(t)) for t in (2 * math.pi * i / _SEGMENTS for i in range(_SEGMENTS))]
# Weights of four points in turn at six steps from the second to the third.
_CATMULL_ROM = [
    (-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3)
    for t in (step / 6 for step in range(6))
]


def mix(a: Rgb, b: Rgb, share: float) -> Rgb:
    """`a` blended towards `b` by `share`."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def darker(colour: Rgb, share: float = 0.2) -> Rgb:
    return mix(colour, (20, 14, 34), share)


def lighter(colour: Rgb, share: float = 0.35) -> Rgb:
    return mix(colour, (255, 255, 255), share)


class Pen:
    """Collects outlined patches in a shape's coordinates and draws them on `finish`.

    The shape stands on (0, 0), is 1 high, y up, and looks to the right; the pen puts it where it belongs, mirrored
    and tilted. One dark line runs around the union of all patches, so a limb grows out of its body without a seam.
    """

    def __init__(
        self,
        draw: ImageDraw,
        x: float,
        base: float,
        height: float,
        *,
        mirror: bool = False,
        tilt: float = 0.0,
    ) -> None:
        """Pixels: the shape's middle, ground line and height. `tilt` in radians, clockwise."""
        self._draw = draw
        self._origin = x, base
        self._scale = height
        self._mirror = -1.0 if mirror else 1.0
        self._turn = math.cos(tilt), math.sin(tilt)
        self._patches: list[tuple[list[Point], Rgb, bool]] = []

    def polygon(self, points: Sequence[Point], colour: Rgb, *, outline: bool = True) -> None:
        (left, base), scale, mirror, (c, s) = self._origin, self._scale, self._mirror, self._turn
        placed = []
        for x, y in points:
            u, v = x * mirror, -y
            placed.append((left + scale * (u * c - v * s), base + scale * (u * s + v * c)))
        self._patches.append((placed, colour, outline))

    def oval(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        colour: Rgb,
        *,
        tilt: float = 0.0,
        outline: bool = True,
    ) -> None:
        """An ellipse, turned by `tilt` radians, anticlockwise."""
        c, s = math.cos(tilt), math.sin(tilt)
        ring = [(rx * u, ry * v) for u, v in _CIRCLE]
        self.polygon([(x + u * c - v * s, y + u * s + v * c) for u, v in ring], colour, outline=outline)

    def limb(self, points: Sequence[Point], width: float, colour: Rgb, *, outline: bool = True) -> None:
        """A line with round ends and joints."""
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            length = math.hypot(x1 - x0, y1 - y0)
            across = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
            start = math.atan2(across[1], across[0])
            ends = [(x0, y0, start), (x1, y1, start + math.pi)]
            outside = [
                (x + width / 2 * math.cos(t + u), y + width / 2 * math.sin(t + u))
                for x, y, t in ends
                for u in (math.pi * k / 7 for k in range(8))
            ]
            self.polygon(outside, colour, outline=outline)

    def blob(self, points: Sequence[Point], colour: Rgb, *, outline: bool = True) -> None:
        """A smooth closed curve through the points (Catmull-Rom)."""
        self.polygon(_smooth(points), colour, outline=outline)

    def finish(self) -> tuple[float, float, float, float]:
        """Draws everything; the x0, y0, x1, y1 it covers, in pixels."""
        width = max(3, round(self._scale / 45))
        for points, _, outline in self._patches:
            if outline:
                joint = "curve" if len(points) < _SEGMENTS else None  # round ones have no corners to fill
                self._draw.line([*points, points[0], points[1]], fill=_OUTLINE, width=2 * width, joint=joint)
        for points, colour, _ in self._patches:
            self._draw.polygon(points, fill=colour)
        xs = [x for points, _, _ in self._patches for x, _ in points]
        ys = [y for points, _, _ in self._patches for _, y in points]
        return min(xs) - width, min(ys) - width, max(xs) + width, max(ys) + width


def _smooth(points: Sequence[Point]) -> list[Point]:
    curve = []
    n = len(points)
    for i in range(n):
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points[i - 1], points[i], points[(i + 1) % n], points[(i + 2) % n]
        for w0, w1, w2, w3 in _CATMULL_ROM:
            curve.append(((w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3) / 2, (w0 * y0 + w1 * y1 + w2 * y2 + w3 * y3) / 2))
    return curve
