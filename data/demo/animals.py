"""Animals of the demo world, each standing on (0, 0), 1 high, looking to the right."""

from __future__ import annotations

from .palette import INK, WHITE, Look
from .pen import Pen, Point, Rgb, darker, lighter

_BEAK: Rgb = (244, 158, 44)


def draw_dog(pen: Pen, look: Look) -> None:
    coat, shade = look.colour, darker(look.colour, 0.25)
    if look.state == "sitting":
        pen.limb([(-0.3, 0.12), (-0.5, 0.2), (-0.56, 0.42)], 0.1, coat)
        pen.limb([(0.18, 0.45), (0.2, 0.06), (0.27, 0.05)], 0.12, shade)
        pen.blob(
            [(-0.34, 0.02), (-0.4, 0.22), (-0.2, 0.5), (0.05, 0.72), (0.28, 0.6), (0.24, 0.3), (0.16, 0.02)],
            coat,
        )
        pen.limb([(0.1, 0.4), (0.12, 0.06), (0.19, 0.05)], 0.12, coat)
        pen.oval(-0.14, 0.13, 0.2, 0.13, coat)
        head: Point = (0.24, 0.78)
    elif look.state == "running":
        pen.limb([(-0.42, 0.56), (-0.62, 0.7), (-0.7, 0.86)], 0.1, coat)
        for legs, colour in (
            ([(-0.3, 0.4), (-0.42, 0.22), (-0.62, 0.12)], shade),
            ([(0.25, 0.4), (0.42, 0.24), (0.58, 0.2)], shade),
            ([(-0.34, 0.42), (-0.3, 0.2), (-0.46, 0.04)], coat),
            ([(0.2, 0.4), (0.28, 0.2), (0.44, 0.06)], coat),
        ):
            pen.limb(legs, 0.11, colour)
        pen.blob(
            [
                (-0.48, 0.44),
                (-0.42, 0.62),
                (0, 0.6),
                (0.36, 0.68),
                (0.42, 0.46),
                (0.2, 0.32),
                (-0.1, 0.36),
                (-0.36, 0.32),
            ],
            coat,
        )
        head = 0.46, 0.74
    else:
        pen.limb([(-0.42, 0.56), (-0.58, 0.72), (-0.58, 0.9)], 0.1, coat)
        for x, colour in ((-0.24, shade), (0.32, shade), (-0.36, coat), (0.2, coat)):
            pen.limb([(x, 0.4), (x, 0.06), (x + 0.05, 0.05)], 0.12, colour)
        pen.blob(
            [
                (-0.5, 0.44),
                (-0.44, 0.63),
                (0, 0.6),
                (0.34, 0.68),
                (0.42, 0.46),
                (0.2, 0.32),
                (-0.1, 0.34),
                (-0.36, 0.3),
            ],
            coat,
        )
        head = 0.42, 0.78
    _dog_head(pen, *head, coat, shade)


def _dog_head(pen: Pen, x: float, y: float, coat: Rgb, shade: Rgb) -> None:
    pen.oval(x, y, 0.2, 0.18, coat)
    pen.oval(x + 0.18, y - 0.06, 0.13, 0.09, lighter(coat, 0.25))
    pen.oval(x + 0.28, y - 0.03, 0.045, 0.04, INK, outline=False)
    pen.oval(x + 0.08, y + 0.05, 0.03, 0.035, INK, outline=False)
    pen.blob(
        [
            (x - 0.16, y + 0.16),
            (x - 0.02, y + 0.14),
            (x - 0.06, y - 0.1),
            (x - 0.16, y - 0.2),
            (x - 0.25, y - 0.08),
        ],
        shade,
    )
    pen.limb([(x - 0.12, y - 0.22), (x + 0.06, y - 0.19)], 0.06, (206, 60, 56), outline=False)


def draw_cat(pen: Pen, look: Look) -> None:
    coat, shade = look.colour, darker(look.colour, 0.22)
    if look.state == "sleeping":
        pen.blob(
            [
                (-0.5, 0.08),
                (-0.54, 0.3),
                (-0.34, 0.52),
                (0, 0.54),
                (0.34, 0.4),
                (0.5, 0.2),
                (0.4, 0.02),
                (-0.36, 0.0),
            ],
            coat,
        )
        pen.limb([(-0.48, 0.14), (-0.3, 0.06), (0.1, 0.07)], 0.12, shade)
        _cat_head(pen, 0.34, 0.26, coat, asleep=True)
    elif look.state == "walking":
        pen.limb([(-0.42, 0.5), (-0.56, 0.72), (-0.46, 0.95)], 0.1, coat)
        for top, foot, colour in (
            (-0.26, -0.16, shade),
            (0.24, 0.12, shade),
            (-0.36, -0.44, coat),
            (0.18, 0.3, coat),
        ):
            pen.limb([(top, 0.36), (foot, 0.05)], 0.11, colour)
        pen.blob(
            [(-0.48, 0.4), (-0.42, 0.56), (0, 0.52), (0.34, 0.58), (0.36, 0.36), (0, 0.26), (-0.36, 0.26)],
            coat,
        )
        _cat_head(pen, 0.38, 0.66, coat, asleep=False)
    else:
        pen.limb([(-0.24, 0.08), (-0.5, 0.1), (-0.56, 0.34), (-0.44, 0.46)], 0.1, shade)
        pen.blob([(-0.32, 0.02), (-0.36, 0.24), (-0.16, 0.56), (0.1, 0.66), (0.26, 0.46), (0.28, 0.02)], coat)
        for x in (0.04, 0.18):
            pen.limb([(x, 0.34), (x, 0.06)], 0.11, lighter(coat, 0.12))
        _cat_head(pen, 0.1, 0.74, coat, asleep=False)


def _cat_head(pen: Pen, x: float, y: float, coat: Rgb, *, asleep: bool) -> None:
    for side in (-1, 1):
        pen.polygon([(x + side * 0.22, y + 0.06), (x + side * 0.19, y + 0.3), (x + side * 0.03, y + 0.16)], coat)
        pen.polygon(
            [(x + side * 0.17, y + 0.12), (x + side * 0.165, y + 0.23), (x + side * 0.08, y + 0.16)],
            (240, 160, 160),
            outline=False,
        )
    pen.oval(x, y, 0.235, 0.19, coat)
    for side in (-1, 1):
        if asleep:
            pen.limb([(x + side * 0.14, y + 0.02), (x + side * 0.05, y + 0.01)], 0.03, INK, outline=False)
        else:
            pen.oval(x + side * 0.09, y + 0.04, 0.045, 0.055, (190, 214, 90), outline=False)
            pen.oval(x + side * 0.09, y + 0.04, 0.018, 0.05, INK, outline=False)
        for dy in (0.0, 0.05):
            pen.limb(
                [(x + side * 0.08, y - 0.06), (x + side * 0.3, y - 0.1 + dy)],
                0.012,
                lighter(INK, 0.5),
                outline=False,
            )
    pen.polygon([(x - 0.035, y - 0.03), (x + 0.035, y - 0.03), (x, y - 0.075)], (236, 128, 138), outline=False)


def draw_horse(pen: Pen, look: Look) -> None:
    coat, shade = look.colour, darker(look.colour, 0.25)
    hair = darker(coat, 0.5) if sum(coat) > 240 else lighter(coat, 0.3)
    runs = look.state == "running"
    if runs:
        legs = [
            ([(-0.26, 0.42), (-0.4, 0.26), (-0.56, 0.14)], shade),
            ([(0.2, 0.42), (0.4, 0.32), (0.4, 0.14)], shade),
            ([(-0.32, 0.42), (-0.26, 0.22), (-0.42, 0.04)], coat),
            ([(0.16, 0.42), (0.3, 0.2), (0.5, 0.18)], coat),
        ]
        pen.blob([(-0.36, 0.6), (-0.62, 0.66), (-0.74, 0.52), (-0.56, 0.56), (-0.4, 0.5)], hair)
    else:
        legs = [
            ([(x, 0.42), (x, 0.05)], colour)
            for x, colour in ((-0.22, shade), (0.24, shade), (-0.32, coat), (0.14, coat))
        ]
        pen.blob([(-0.36, 0.6), (-0.5, 0.56), (-0.54, 0.3), (-0.46, 0.18), (-0.42, 0.4)], hair)
    for leg, colour in legs:
        pen.limb(leg, 0.085, colour)
        pen.limb([leg[-1], (leg[-1][0] + 0.02, leg[-1][1] - 0.02)], 0.09, darker(coat, 0.6))
    pen.blob(
        [
            (-0.42, 0.46),
            (-0.38, 0.63),
            (0, 0.58),
            (0.26, 0.66),
            (0.34, 0.5),
            (0.2, 0.37),
            (-0.1, 0.38),
            (-0.32, 0.36),
        ],
        coat,
    )
    pen.blob([(0.08, 0.6), (0.24, 0.78), (0.34, 0.94), (0.46, 0.9), (0.42, 0.72), (0.34, 0.48)], coat)
    pen.blob([(0.32, 0.92), (0.42, 0.97), (0.52, 0.88), (0.66, 0.72), (0.6, 0.64), (0.46, 0.7), (0.34, 0.78)], coat)
    pen.polygon([(0.35, 0.92), (0.38, 1.04), (0.43, 0.94)], coat)
    pen.blob([(0.38, 0.99), (0.28, 0.94), (0.16, 0.76), (0.06, 0.6), (0.18, 0.64), (0.3, 0.8)], hair)
    pen.oval(0.47, 0.86, 0.02, 0.026, INK if sum(coat) > 240 else WHITE, outline=False)
    pen.oval(0.615, 0.7, 0.014, 0.018, INK, outline=False)


def draw_sheep(pen: Pen, look: Look) -> None:
    wool = look.colour
    face: Rgb = (70, 60, 66) if sum(wool) > 300 else (206, 190, 176)
    for x in (-0.34, -0.16, 0.14, 0.3):
        pen.limb([(x, 0.3), (x, 0.05)], 0.09, face)
    puffs = (
        (-0.36, 0.42),
        (-0.34, 0.66),
        (-0.12, 0.78),
        (0.14, 0.78),
        (0.34, 0.64),
        (0.36, 0.42),
        (0.16, 0.32),
        (-0.14, 0.32),
    )
    for x, y in puffs:
        pen.oval(x, y, 0.2, 0.18, wool)
    pen.oval(0, 0.54, 0.42, 0.28, lighter(wool, 0.15), outline=False)
    pen.oval(0.38, 0.7, 0.12, 0.06, face, tilt=0.5)
    pen.oval(0.54, 0.64, 0.15, 0.19, face, tilt=0.45)
    pen.oval(0.46, 0.82, 0.14, 0.09, wool)
    for x in (0.52, 0.62):
        pen.oval(x, 0.68, 0.032, 0.036, WHITE, outline=False)
        pen.oval(x + 0.01, 0.675, 0.016, 0.02, INK, outline=False)


def draw_duck(pen: Pen, look: Look) -> None:
    down, shade = look.colour, darker(look.colour, 0.16)
    if look.state != "swimming":
        for x in (-0.1, 0.1):
            pen.limb([(x, 0.25), (x, 0.04), (x + 0.1, 0.03)], 0.06, _BEAK)
    pen.blob(
        [
            (-0.62, 0.58),
            (-0.44, 0.4),
            (-0.3, 0.18),
            (0.08, 0.12),
            (0.4, 0.26),
            (0.42, 0.5),
            (0.1, 0.52),
            (-0.3, 0.5),
        ],
        down,
    )
    pen.blob([(-0.4, 0.46), (-0.1, 0.5), (0.18, 0.44), (0.08, 0.28), (-0.2, 0.26)], shade, outline=False)
    pen.blob([(0.42, 0.86), (0.72, 0.78), (0.7, 0.7), (0.42, 0.7)], _BEAK)
    pen.blob([(0.16, 0.44), (0.2, 0.7), (0.46, 0.52), (0.4, 0.36)], down, outline=False)
    pen.oval(0.3, 0.78, 0.2, 0.2, down)
    pen.limb([(0.26, 0.5), (0.3, 0.66)], 0.26, down, outline=False)
    pen.oval(0.38, 0.84, 0.034, 0.04, INK, outline=False)


def draw_bird(pen: Pen, look: Look) -> None:
    plume, shade = look.colour, darker(look.colour, 0.2)
    pen.polygon([(-0.3, 0.44), (-0.68, 0.56), (-0.62, 0.4), (-0.66, 0.28)], shade)
    pen.blob([(0.02, 0.46), (0.16, 0.8), (-0.02, 1.0), (-0.14, 0.78), (-0.18, 0.46)], shade)
    pen.polygon([(0.5, 0.52), (0.72, 0.44), (0.5, 0.4)], _BEAK)
    pen.blob([(-0.42, 0.4), (-0.1, 0.5), (0.24, 0.62), (0.5, 0.6), (0.54, 0.42), (0.3, 0.26), (-0.1, 0.24)], plume)
    pen.blob([(0.1, 0.46), (-0.1, 0.84), (-0.4, 0.98), (-0.4, 0.7), (-0.22, 0.42)], lighter(plume, 0.22))
    pen.oval(0.42, 0.5, 0.035, 0.045, WHITE, outline=False)
    pen.oval(0.43, 0.5, 0.02, 0.026, INK, outline=False)


def draw_whale(pen: Pen, look: Look) -> None:
    skin = look.colour
    if look.state == "spouting":
        for lean in (-0.12, 0.0, 0.12):
            pen.limb(
                [(0.3, 0.6), (0.3 + lean * 0.6, 0.84), (0.3 + lean * 1.7, 0.9 - abs(lean))],
                0.05,
                (196, 230, 246),
            )
    pen.blob(
        [
            (-0.56, 0.3),
            (-0.72, 0.62),
            (-0.94, 0.76),
            (-0.74, 0.78),
            (-0.66, 0.74),
            (-0.5, 0.82),
            (-0.56, 0.64),
            (-0.4, 0.36),
        ],
        skin,
    )
    pen.blob(
        [
            (-0.62, 0.24),
            (-0.4, 0.36),
            (0, 0.6),
            (0.4, 0.64),
            (0.76, 0.46),
            (0.84, 0.2),
            (0.7, 0.04),
            (0, 0.02),
            (-0.4, 0.06),
        ],
        skin,
    )
    pen.blob(
        [(0.82, 0.22), (0.7, 0.05), (0.2, 0.03), (-0.2, 0.05), (0.2, 0.14), (0.56, 0.18)],
        lighter(skin, 0.6),
        outline=False,
    )
    pen.oval(0.54, 0.33, 0.04, 0.045, WHITE, outline=False)
    pen.oval(0.55, 0.33, 0.022, 0.028, INK, outline=False)
