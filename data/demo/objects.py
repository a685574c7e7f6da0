"""Buildings, plants, toys and vehicles of the demo world, each standing on (0, 0), 1 high, heading to the right."""

from __future__ import annotations

import itertools
import math

from .palette import INK, WHITE, Look
from .pen import Pen, Point, Rgb, darker, lighter

_WOOD: Rgb = (122, 80, 52)
_GLASS: Rgb = (182, 222, 240)
_TYRE: Rgb = (56, 54, 62)


def draw_house(pen: Pen, look: Look) -> None:
    wall, roof = look.colour, look.accent
    pen.polygon([(0.18, 0.6), (0.18, 0.9), (0.3, 0.9), (0.3, 0.6)], darker(roof, 0.15))
    if look.state == "smoking":
        for x, y, r in ((0.25, 0.96, 0.055), (0.31, 1.04, 0.07), (0.4, 1.11, 0.085)):
            pen.oval(x, y, r, r * 0.8, (226, 228, 232))
    pen.polygon([(-0.4, 0), (0.4, 0), (0.4, 0.55), (-0.4, 0.55)], wall)
    pen.polygon([(-0.5, 0.52), (0.5, 0.52), (0.04, 0.95), (-0.04, 0.95)], roof)
    pen.polygon([(-0.1, 0), (0.1, 0), (0.1, 0.3), (-0.1, 0.3)], _WOOD)
    pen.oval(0.06, 0.15, 0.018, 0.018, (240, 210, 100), outline=False)
    for x in (-0.26, 0.26):
        _window(pen, x, 0.3, 0.085)
    pen.oval(0, 0.7, 0.075, 0.075, _GLASS)


def _window(pen: Pen, x: float, y: float, half: float) -> None:
    pen.polygon([(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)], WHITE)
    for dx in (-0.48, 0.48):
        for dy in (-0.48, 0.48):
            cx, cy, r = x + dx * half, y + dy * half, 0.37 * half
            pen.polygon(
                [(cx - r, cy - r), (cx + r, cy - r), (cx + r, cy + r), (cx - r, cy + r)],
                _GLASS,
                outline=False,
            )


def draw_lighthouse(pen: Pen, look: Look) -> None:
    pen.blob([(-0.3, 0.0), (-0.2, 0.08), (0.0, 0.1), (0.2, 0.08), (0.3, 0.0), (0.0, -0.02)], (128, 124, 128))
    for i in range(5):
        low, high = 0.06 + 0.13 * i, 0.19 + 0.13 * i
        sides = [0.17 - 0.1 * y for y in (low, high)]
        stripe = [(-sides[0], low), (sides[0], low), (sides[1], high), (-sides[1], high)]
        pen.polygon(stripe, look.colour if i % 2 == 0 else WHITE)
    pen.polygon([(-0.14, 0.71), (0.14, 0.71), (0.14, 0.74), (-0.14, 0.74)], INK)
    pen.polygon([(-0.075, 0.74), (0.075, 0.74), (0.075, 0.86), (-0.075, 0.86)], (255, 232, 130))
    pen.polygon([(-0.12, 0.86), (0.12, 0.86), (0, 0.99)], look.colour)


def draw_tent(pen: Pen, look: Look) -> None:
    pen.polygon([(-0.66, 0), (0.66, 0), (0.1, 0.96), (-0.1, 0.96)], look.colour)
    pen.polygon([(-0.66, 0), (-0.44, 0), (-0.03, 0.96), (-0.1, 0.96)], darker(look.colour, 0.2), outline=False)
    pen.polygon([(0.66, 0), (0.44, 0), (0.03, 0.96), (0.1, 0.96)], darker(look.colour, 0.2), outline=False)
    pen.polygon([(-0.2, 0), (0.2, 0), (0, 0.66)], (58, 48, 60), outline=False)
    pen.polygon([(-0.2, 0), (-0.3, 0), (0, 0.66)], lighter(look.colour, 0.45), outline=False)
    pen.polygon([(0.2, 0), (0.3, 0), (0, 0.66)], lighter(look.colour, 0.45), outline=False)


def draw_tree(pen: Pen, look: Look) -> None:
    rng = look.rng()
    pen.polygon([(-0.07, 0), (0.07, 0), (0.05, 0.45), (-0.05, 0.45)], _WOOD)
    crown = [(-0.2, 0.56, 0.19), (0.2, 0.56, 0.19), (-0.13, 0.78, 0.18), (0.13, 0.78, 0.18), (0, 0.64, 0.24)]
    for x, y, r in crown:
        pen.oval(x + rng.uniform(-0.02, 0.02), y + rng.uniform(-0.02, 0.02), r, r, look.colour)
    pen.oval(-0.09, 0.82, 0.11, 0.08, lighter(look.colour, 0.22), outline=False)
    if look.state == "fruit":
        for x, y in (
            (-0.24, 0.56),
            (-0.06, 0.52),
            (0.16, 0.5),
            (0.26, 0.64),
            (0.06, 0.7),
            (-0.14, 0.72),
            (0.14, 0.86),
            (-0.04, 0.9),
        ):
            pen.oval(x, y, 0.043, 0.043, darker((206, 36, 44), 0.25), outline=False)
            pen.oval(x, y, 0.035, 0.035, (222, 40, 46), outline=False)


def draw_pine(pen: Pen, look: Look) -> None:
    green: Rgb = darker(look.colour, 0.25)
    pen.polygon([(-0.05, 0), (0.05, 0), (0.05, 0.2), (-0.05, 0.2)], _WOOD)
    for bottom, top, half in ((0.13, 0.52, 0.3), (0.34, 0.74, 0.25), (0.56, 1.0, 0.19)):
        pen.polygon([(-half, bottom), (0, bottom - 0.03), (half, bottom), (0, top)], green)
        if look.state == "snowy":
            cut = 0.42
            y = top - cut * (top - bottom)
            x = half * cut
            pen.polygon(
                [(-x, y), (-x / 3, y + 0.03), (0, y - 0.03), (x / 3, y + 0.03), (x, y), (0, top)],
                WHITE,
                outline=False,
            )
        else:
            pen.polygon(
                [(0.1 * half, bottom + 0.04), (half * 0.8, bottom + 0.02), (0, top)],
                lighter(green, 0.12),
                outline=False,
            )


def draw_flower(pen: Pen, look: Look) -> None:
    stem: Rgb = (62, 140, 62)
    pen.limb([(0, 0.02), (0, 0.6)], 0.06, stem)
    pen.blob([(0, 0.14), (0.1, 0.32), (0.28, 0.36), (0.2, 0.2)], stem)
    pen.blob([(0, 0.1), (-0.1, 0.26), (-0.28, 0.3), (-0.2, 0.14)], stem)
    for i in range(6):
        t = math.pi * i / 3 + 0.3
        pen.oval(0.17 * math.cos(t), 0.72 + 0.17 * math.sin(t), 0.13, 0.1, look.colour, tilt=t)
    heart: Rgb = (170, 96, 40) if look.colour[0] > 225 and look.colour[2] < 100 else (252, 208, 60)
    pen.oval(0, 0.72, 0.1, 0.1, heart, outline=False)


def draw_umbrella(pen: Pen, look: Look) -> None:
    pen.limb([(0, 0.02), (0, 0.9)], 0.05, (196, 168, 130))
    ribs = [_rib(x) for x in (-0.54, -0.34, -0.115, 0.115, 0.34, 0.54)]
    for i, (left, right) in enumerate(itertools.pairwise(ribs)):
        pen.polygon([*left, *reversed(right)], look.colour if i % 2 == 0 else WHITE)
    pen.oval(0, 0.97, 0.04, 0.04, look.colour)


def _rib(end: float) -> list[Point]:
    return [(end * math.sin(t * math.pi / 12), 0.5 + 0.46 * math.cos(t * math.pi / 12)) for t in range(7)]


def draw_ball(pen: Pen, look: Look) -> None:
    pen.oval(0, 0.5, 0.5, 0.5, look.colour)
    if look.state == "striped":
        for lean in (-1, 1):
            outer = [_on_ball(lean * 0.3, t / 6) for t in range(-6, 7)]
            inner = [_on_ball(lean * 0.62, t / 6) for t in range(6, -7, -1)]
            pen.polygon([*outer, *inner], WHITE if sum(look.colour) < 700 else (214, 70, 70), outline=False)
    pen.oval(-0.17, 0.7, 0.12, 0.08, lighter(look.colour, 0.6), tilt=0.6, outline=False)


def _on_ball(bulge: float, t: float) -> Point:
    return bulge * 0.98 * math.cos(t * math.pi / 2), 0.5 + 0.49 * math.sin(t * math.pi / 2)


def draw_car(pen: Pen, look: Look) -> None:
    paint = look.colour
    pen.blob([(-0.62, 0.58), (-0.46, 0.96), (0, 1.0), (0.3, 0.96), (0.6, 0.58), (0, 0.5)], paint)
    pen.blob(
        [
            (-0.98, 0.3),
            (-0.96, 0.6),
            (-0.6, 0.64),
            (0, 0.62),
            (0.6, 0.62),
            (0.94, 0.52),
            (0.98, 0.24),
            (0.5, 0.16),
            (-0.6, 0.16),
        ],
        paint,
    )
    pen.polygon([(-0.46, 0.62), (-0.38, 0.88), (-0.06, 0.9), (-0.06, 0.62)], _GLASS, outline=False)
    pen.polygon([(0.04, 0.62), (0.04, 0.9), (0.24, 0.87), (0.44, 0.62)], _GLASS, outline=False)
    pen.oval(0.9, 0.44, 0.05, 0.07, (255, 240, 170), outline=False)
    pen.limb([(-0.02, 0.58), (-0.02, 0.24)], 0.02, darker(paint), outline=False)
    for x in (-0.54, 0.54):
        _wheel(pen, x, 0.19, 0.19)


def _wheel(pen: Pen, x: float, y: float, r: float) -> None:
    pen.oval(x, y, r, r, _TYRE)
    pen.oval(x, y, 0.5 * r, 0.5 * r, (206, 208, 214), outline=False)


def draw_bus(pen: Pen, look: Look) -> None:
    paint = look.colour
    pen.blob(
        [
            (-0.92, 0.16),
            (-0.94, 0.55),
            (-0.9, 0.94),
            (0, 1.0),
            (0.84, 0.96),
            (0.94, 0.6),
            (0.94, 0.16),
            (0, 0.13),
        ],
        paint,
    )
    pen.polygon([(-0.92, 0.44), (0.93, 0.44), (0.93, 0.37), (-0.92, 0.37)], lighter(paint, 0.55), outline=False)
    for left in (-0.82, -0.49, -0.16, 0.17):
        pen.polygon([(left, 0.52), (left + 0.26, 0.52), (left + 0.26, 0.82), (left, 0.82)], _GLASS, outline=False)
    pen.polygon([(0.54, 0.2), (0.74, 0.2), (0.74, 0.84), (0.54, 0.84)], lighter(_GLASS, 0.3), outline=False)
    pen.polygon([(0.8, 0.5), (0.92, 0.5), (0.87, 0.84), (0.8, 0.84)], _GLASS, outline=False)
    for x in (-0.55, 0.42):
        _wheel(pen, x, 0.14, 0.14)


def draw_snowman(pen: Pen, look: Look) -> None:
    snow: Rgb = (244, 248, 254)
    for side in (-1, 1):
        pen.limb([(side * 0.18, 0.48), (side * 0.36, 0.62)], 0.035, _WOOD)
    pen.oval(0, 0.2, 0.27, 0.21, snow)
    pen.oval(0, 0.49, 0.2, 0.17, snow)
    pen.oval(0, 0.75, 0.15, 0.14, snow)
    pen.polygon([(0.04, 0.63), (0.14, 0.62), (0.17, 0.4), (0.08, 0.4)], look.colour)
    pen.limb([(-0.13, 0.635), (0, 0.61), (0.13, 0.635)], 0.08, look.colour)
    pen.polygon([(-0.11, 0.86), (0.11, 0.86), (0.1, 1.02), (-0.1, 1.02)], INK)
    pen.limb([(-0.17, 0.865), (0.17, 0.865)], 0.04, INK)
    pen.polygon([(0.0, 0.77), (0.0, 0.72), (0.17, 0.735)], (240, 132, 40), outline=False)
    for x, y in ((-0.06, 0.79), (0.06, 0.79), (0, 0.5), (0, 0.42)):
        pen.oval(x, y, 0.02, 0.02, INK, outline=False)


def draw_boat(pen: Pen, look: Look) -> None:
    hull, sail = look.colour, look.accent
    pen.limb([(0, 0.2), (0, 0.98)], 0.035, _WOOD)
    pen.polygon([(0.05, 0.28), (0.42, 0.32), (0.05, 0.94)], sail)
    pen.polygon([(-0.05, 0.28), (-0.3, 0.32), (-0.05, 0.82)], darker(sail, 0.08))
    pen.blob([(-0.42, 0.24), (0, 0.21), (0.46, 0.27), (0.42, 0.14), (0.28, 0.0), (-0.24, 0.0), (-0.38, 0.1)], hull)
    pen.limb([(-0.34, 0.17), (0.38, 0.18)], 0.03, lighter(hull, 0.5), outline=False)


def draw_balloon(pen: Pen, look: Look) -> None:
    for x in (-0.09, 0.09):
        pen.limb([(x * 1.5, 0.36), (x, 0.16)], 0.014, _WOOD)
    pen.polygon([(-0.1, 0.16), (0.1, 0.16), (0.08, 0.01), (-0.08, 0.01)], _WOOD)
    pen.blob(
        [(-0.13, 0.29), (-0.34, 0.5), (-0.34, 0.8), (0, 1.0), (0.34, 0.8), (0.34, 0.5), (0.13, 0.29)],
        look.colour,
    )
    for side in (-1, 1):
        pen.blob(
            [
                (side * 0.09, 0.3),
                (side * 0.25, 0.5),
                (side * 0.25, 0.8),
                (side * 0.03, 0.985),
                (side * 0.13, 0.8),
                (side * 0.13, 0.5),
            ],
            look.accent,
            outline=False,
        )
    pen.oval(-0.26, 0.78, 0.04, 0.09, lighter(look.colour, 0.5), tilt=-0.3, outline=False)


def draw_kite(pen: Pen, look: Look) -> None:
    tail = [(0.0, 0.36), (-0.07, 0.26), (0.05, 0.17), (-0.05, 0.08), (0.02, 0.01)]
    pen.limb(tail, 0.018, INK, outline=False)
    for x, y in tail[1:4]:
        pen.polygon(
            [(x - 0.07, y - 0.035), (x + 0.07, y + 0.035), (x + 0.07, y - 0.035), (x - 0.07, y + 0.035)],
            look.colour,
        )
    pen.polygon([(0, 0.36), (0.3, 0.72), (0, 1.0), (-0.3, 0.72)], look.colour)
    pen.polygon([(0, 0.36), (0.3, 0.72), (0, 0.72)], lighter(look.colour, 0.45), outline=False)
    pen.polygon([(0, 1.0), (-0.3, 0.72), (0, 0.72)], lighter(look.colour, 0.45), outline=False)


def draw_plane(pen: Pen, look: Look) -> None:
    paint = look.colour
    pen.polygon([(-0.2, 0.5), (0.14, 0.5), (-0.22, 0.9), (-0.38, 0.9)], darker(paint, 0.2))
    pen.polygon([(-0.92, 0.5), (-0.62, 0.54), (-0.8, 0.98), (-1.0, 0.98)], paint)
    pen.blob(
        [
            (-0.96, 0.5),
            (-0.6, 0.62),
            (0, 0.66),
            (0.6, 0.64),
            (0.94, 0.46),
            (0.6, 0.3),
            (0, 0.28),
            (-0.6, 0.36),
        ],
        paint,
    )
    pen.polygon([(0.6, 0.5), (0.8, 0.52), (0.7, 0.6), (0.58, 0.62)], _GLASS, outline=False)
    for x in (-0.5, -0.32, -0.14, 0.04, 0.22, 0.4):
        pen.oval(x, 0.52, 0.045, 0.05, _GLASS, outline=False)
    pen.polygon([(-0.16, 0.42), (0.2, 0.42), (-0.24, 0.02), (-0.42, 0.02)], lighter(paint, 0.15))
