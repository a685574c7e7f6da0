"""A scene's picture: the backdrop, then the things from far to near, and their boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import animals, children, objects
from .backdrops import foam_colour, paint_backdrop, shadow_colour
from .palette import Look
from .pen import Pen
from .scenes import KINDS, Scene, Thing

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

SIDE = 224
_OVERSAMPLING = 3
_SHAPES: dict[str, Callable[[Pen, Look], None]] = {
    name.removeprefix("draw_"): shape
    for room in (animals, children, objects)
    for name, shape in vars(room).items()
    if name.startswith("draw_")
}
_AFLOAT = ("boat", "whale", "duck", "ball", "lighthouse")

Box = tuple[float, float, float, float]


def paint(scene: Scene) -> tuple[Image, list[Box]]:
    """The picture, (SIDE, SIDE) RGB, and the boxes x0, y0, x1, y1 in 0..1 of all members of all things."""
    side = SIDE * _OVERSAMPLING
    image, draw = paint_backdrop(scene, side)
    boxes: list[Box] = []
    for thing in sorted(scene.things, key=lambda thing: thing.base):
        for x in thing.member_x:
            x0, y0, x1, y1 = _paint_member(draw, scene, thing, x, side)
            boxes.append((max(0.0, x0 / side), max(0.0, y0 / side), min(1.0, x1 / side), min(1.0, y1 / side)))
    return image.reduce(_OVERSAMPLING), boxes


def _paint_member(draw: ImageDraw, scene: Scene, thing: Thing, x: float, side: int) -> Box:
    look = Look.of(thing)
    flies = KINDS[thing.kind].habitat == "sky"
    half = 0.5 * thing.member_width * side
    ground = thing.base * side
    if not flies and scene.place != "sea":
        flat = 0.16 * half
        draw.ellipse(
            (x * side - 0.9 * half, ground - flat, x * side + 0.9 * half, ground + flat),
            fill=shadow_colour(scene),
        )
    pen = Pen(
        draw,
        x * side,
        (thing.base - thing.lift) * side,
        thing.height * side,
        mirror=thing.facing == "left",
        tilt=thing.tilt,
    )
    if scene.place == "sea" and thing.kind == "duck":
        look = Look(look.colour, look.accent, "swimming", look.seed)
    _SHAPES[thing.kind](pen, look)
    box = pen.finish()
    if scene.place == "sea" and thing.kind in _AFLOAT:
        draw.ellipse(
            (x * side - 1.05 * half, ground - 0.09 * half, x * side + 1.05 * half, ground + 0.12 * half),
            fill=foam_colour(scene),
        )
    return box
