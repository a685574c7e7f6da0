"""The places and skies of the demo world, painted at the drawing resolution."""

from __future__ import annotations

import math
from functools import lru_cache
from random import Random
from typing import TYPE_CHECKING

from .pen import Pen, Rgb, darker, lighter, mix
from .scenes import HORIZON, Place, Scene, Sky

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_SKY: dict[Sky, tuple[Rgb, Rgb]] = {
    "day": ((92, 172, 232), (206, 234, 250)),
    "sunset": ((126, 92, 158), (255, 176, 108)),
    "night": ((14, 18, 52), (52, 60, 112)),
}
_GROUND: dict[Place, tuple[Rgb, Rgb]] = {
    "meadow": ((146, 196, 96), (92, 158, 66)),
    "snow": ((214, 226, 242), (190, 206, 230)),
    "beach": ((240, 218, 164), (224, 192, 130)),
    "desert": ((222, 158, 98), (196, 124, 72)),
    "street": ((132, 134, 142), (104, 106, 116)),
    "sea": ((74, 150, 190), (28, 92, 146)),
}
_LIGHT: dict[Sky, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "sunset": (1.0, 0.82, 0.76),
    "night": (0.42, 0.46, 0.68),
}


def paint_backdrop(scene: Scene, side: int) -> tuple[Image, ImageDraw]:
    """Sky, sun or moon, and ground. Returns the image, (side, side) RGB, and the ImageDraw that continues painting
    it."""
    from PIL import Image, ImageDraw

    rng = Random(scene.look)
    horizon = round(HORIZON * side)
    image = Image.new("RGB", (side, side))
    image.paste(_gradient(*_SKY[scene.sky], side, horizon), (0, 0))
    draw = ImageDraw.Draw(image)
    _paint_sky(draw, scene.sky, side, rng)
    far, near = (_lit(colour, scene.sky) for colour in _GROUND[scene.place])
    image.paste(_gradient(far, near, side, side - horizon), (0, horizon))
    _PAINTERS[scene.place](draw, scene.sky, side, rng)
    return image, draw


def shadow_colour(scene: Scene) -> Rgb:
    """Colour of a thing's shadow on the ground."""
    return darker(_lit(_GROUND[scene.place][1], scene.sky), 0.28)


def foam_colour(scene: Scene) -> Rgb:
    """Colour of the water around a hull."""
    return lighter(_lit(_GROUND["sea"][0], scene.sky), 0.5)


def _lit(colour: Rgb, sky: Sky) -> Rgb:
    r, g, b = (round(c * light) for c, light in zip(colour, _LIGHT[sky], strict=True))
    return r, g, b


@lru_cache(64)  # of 18 places and skies
def _gradient(top: Rgb, bottom: Rgb, width: int, height: int) -> Image:
    from PIL import Image

    ends = Image.new("RGB", (1, 2), top)
    ends.putpixel((0, 1), bottom)
    return ends.resize((1, height), Image.Resampling.BILINEAR, box=(0, 0.5, 1, 1.5)).resize(
        (width, height), Image.Resampling.NEAREST
    )


def _disc(draw: ImageDraw, x: float, y: float, r: float, colour: Rgb, flat: float = 1.0) -> None:
    draw.ellipse((x - r, y - r * flat, x + r, y + r * flat), fill=colour)


def _paint_sky(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    x, y, r = rng.uniform(0.1, 0.9) * side, rng.uniform(0.08, 0.2) * side, 0.06 * side
    if sky == "night":
        for _ in range(26):
            _disc(
                draw,
                rng.uniform(0, side),
                rng.uniform(0, 0.45) * side,
                rng.uniform(0.0025, 0.006) * side,
                (240, 240, 214),
            )
        _disc(draw, x, y, r, (248, 242, 206))
        _disc(draw, x + 0.45 * r, y - 0.2 * r, 0.85 * r, mix(*_SKY["night"], 0.2))
        return
    if sky == "sunset":
        y = (HORIZON - 0.03) * side
        _disc(draw, x, y, 1.9 * r, (255, 196, 118))
        _disc(draw, x, y, 1.3 * r, (255, 226, 140))
        cloud = (240, 168, 156)
    else:
        _disc(draw, x, y, r, (255, 228, 104))
        cloud = (246, 251, 255)
    for _ in range(rng.randint(1, 3)):
        cx, cy, w = rng.uniform(0, side), rng.uniform(0.06, 0.34) * side, rng.uniform(0.04, 0.07) * side
        for dx, dy, size in ((-1.1, 0.25, 0.7), (0.0, 0.0, 1.0), (1.1, 0.22, 0.75), (2.0, 0.4, 0.45)):
            _disc(draw, cx + dx * w, cy + dy * w, size * w, cloud, 0.62)


def _hills(draw: ImageDraw, colour: Rgb, side: int, rng: Random, height: float) -> None:
    phase, waves = rng.uniform(0, 2 * math.pi), rng.uniform(1.2, 2.6)
    top = [
        (
            side * i / 40,
            side * (HORIZON - height * (0.55 + 0.45 * math.sin(phase + waves * math.pi * i / 20))),
        )
        for i in range(41)
    ]
    draw.polygon([*top, (side, side * (HORIZON + 0.01)), (0, side * (HORIZON + 0.01))], fill=colour)


def _spots(rng: Random, side: int, count: int) -> list[tuple[float, float]]:
    return [(rng.uniform(0, side), rng.uniform(HORIZON + 0.04, 0.99) * side) for _ in range(count)]


def _meadow(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    _hills(draw, _lit((112, 172, 110), sky), side, rng, 0.1)
    blade = _lit((76, 142, 58), sky)
    for x, y in _spots(rng, side, 26):
        for lean in (-0.008, 0.0, 0.008):
            draw.line((x, y, x + lean * side, y - 0.02 * side), fill=blade, width=max(2, side // 220))


def _snow(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    for i in range(4):
        x, w, h = (
            (i + rng.uniform(0, 0.7)) * side / 4,
            rng.uniform(0.14, 0.22) * side,
            rng.uniform(0.12, 0.22) * side,
        )
        y = HORIZON * side
        draw.polygon([(x - w, y), (x, y - h), (x + w, y)], fill=_lit((146, 160, 192), sky))
        draw.polygon(
            [(x - 0.35 * w, y - 0.65 * h), (x, y - h), (x + 0.35 * w, y - 0.65 * h)],
            fill=_lit((236, 242, 250), sky),
        )
    for x, y in _spots(rng, side, 7):
        _disc(draw, x, y, rng.uniform(0.03, 0.08) * side, _lit((226, 236, 248), sky), 0.18)
    for _ in range(34):
        _disc(
            draw,
            rng.uniform(0, side),
            rng.uniform(0, side),
            rng.uniform(0.003, 0.006) * side,
            (250, 252, 255),
        )


def _beach(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    y = HORIZON * side
    draw.rectangle((0, y, side, y + 0.085 * side), fill=_lit((62, 146, 190), sky))
    draw.rectangle((0, y + 0.085 * side, side, y + 0.1 * side), fill=_lit((232, 244, 246), sky))
    for _ in range(7):
        x, dy = rng.uniform(0, side), rng.uniform(0.015, 0.07) * side
        draw.line((x, y + dy, x + 0.06 * side, y + dy), fill=_lit((120, 188, 218), sky), width=side // 160)
    for x, z in _spots(rng, side, 22):
        if z > y + 0.13 * side:
            _disc(draw, x, z, 0.004 * side, _lit((204, 168, 110), sky))


def _desert(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    _hills(draw, _lit((206, 136, 84), sky), side, rng, 0.12)
    _hills(draw, _lit((216, 150, 94), sky), side, rng, 0.05)
    green = _lit((92, 128, 80), sky)
    for _ in range(rng.randint(2, 3)):
        pen = Pen(draw, rng.uniform(0.04, 0.96) * side, (HORIZON + 0.015) * side, rng.uniform(0.09, 0.14) * side)
        pen.limb([(0, 0), (0, 0.9)], 0.22, green)
        pen.limb([(0, 0.35), (0.3, 0.4), (0.3, 0.7)], 0.16, green)
        pen.limb([(0, 0.5), (-0.28, 0.52), (-0.28, 0.8)], 0.16, green)
        pen.finish()
    for x, y in _spots(rng, side, 5):
        draw.arc(
            (x - 0.09 * side, y, x + 0.09 * side, y + 0.05 * side),
            200,
            340,
            fill=_lit((178, 108, 62), sky),
            width=side // 150,
        )


def _street(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    y, x = HORIZON * side, -0.02 * side
    while x < side:
        w, h = rng.uniform(0.09, 0.16) * side, rng.uniform(0.1, 0.28) * side
        wall = _lit(rng.choice([(150, 156, 176), (168, 160, 170), (136, 146, 166)]), sky)
        draw.rectangle((x, y - h, x + w, y), fill=wall)
        glass = (250, 220, 130) if sky == "night" else _lit((196, 214, 230), sky)
        pane = 0.016 * side
        for row in range(int(h / (2.4 * pane))):
            for column in range(int(w / (2.2 * pane))):
                if rng.random() < 0.75:
                    px, py = x + (0.6 + 2.1 * column) * pane, y - h + (0.8 + 2.3 * row) * pane
                    draw.rectangle((px, py, px + pane, py + pane), fill=glass)
        x += w + 0.006 * side
    draw.rectangle((0, y, side, y + 0.055 * side), fill=_lit((186, 184, 182), sky))
    for i in range(6):
        left = (i + 0.1) * side / 5 - 0.1 * side
        draw.rectangle((left, 0.765 * side, left + 0.1 * side, 0.782 * side), fill=_lit((238, 232, 206), sky))


def _sea(draw: ImageDraw, sky: Sky, side: int, rng: Random) -> None:
    crest = _lit((146, 204, 224), sky)
    for x, y in _spots(rng, side, 22):
        w = 0.02 * side + 0.05 * (y - HORIZON * side)
        draw.arc((x - w, y, x, y + 0.5 * w), 20, 160, fill=crest, width=side // 170)
        draw.arc((x, y, x + w, y + 0.5 * w), 20, 160, fill=crest, width=side // 170)


_PAINTERS = {
    "meadow": _meadow, "snow": _snow, "beach": _beach, "desert": _desert, "street": _street, "sea": _sea,
}  # fmt: skip
