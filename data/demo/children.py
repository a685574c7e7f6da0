"""Children of the demo world, each standing on (0, 0), 1 high, facing the viewer."""

from __future__ import annotations

from .palette import INK, Look
from .pen import Pen, Rgb

_SKIN: tuple[Rgb, ...] = ((250, 214, 182), (226, 176, 132), (156, 104, 72), (112, 74, 52))
_HAIR: tuple[Rgb, ...] = ((62, 42, 34), (132, 82, 42), (224, 184, 96), (34, 30, 34))


def draw_girl(pen: Pen, look: Look) -> None:
    rng = look.rng()
    skin, hair = rng.choice(_SKIN), rng.choice(_HAIR)
    pen.blob([(-0.17, 0.9), (0, 1.02), (0.17, 0.9), (0.22, 0.6), (0.1, 0.56), (-0.1, 0.56), (-0.22, 0.6)], hair)
    _legs(pen, look.state, skin)
    _arms(pen, look.state, skin, skin)
    pen.polygon([(-0.1, 0.64), (0.1, 0.64), (0.27, 0.23), (-0.27, 0.23)], look.colour)
    _face(pen, skin, hair)


def draw_boy(pen: Pen, look: Look) -> None:
    rng = look.rng()
    skin, hair = rng.choice(_SKIN), rng.choice(_HAIR)
    trousers: Rgb = (74, 84, 116)
    _legs(pen, look.state, trousers)
    _arms(pen, look.state, look.colour, skin)
    pen.polygon([(-0.15, 0.64), (0.15, 0.64), (0.16, 0.32), (-0.16, 0.32)], look.colour)
    pen.polygon([(-0.16, 0.33), (0.16, 0.33), (0.16, 0.24), (-0.16, 0.24)], trousers)
    _face(pen, skin, hair)


def _legs(pen: Pen, state: str, cover: Rgb) -> None:
    knees = ((-0.2, 0.17), (0.2, 0.17)) if state == "jumping" else ((-0.09, 0.15), (0.09, 0.15))
    for knee_x, knee_y in knees:
        side = 1 if knee_x > 0 else -1
        foot = (side * 0.12, 0.06) if state == "jumping" else (side * 0.09, 0.06)
        pen.limb([(side * 0.08, 0.3), (knee_x, knee_y), foot], 0.1, cover)
        pen.oval(foot[0] + side * 0.03, 0.035, 0.075, 0.04, (70, 52, 50))


def _arms(pen: Pen, state: str, sleeve: Rgb, skin: Rgb) -> None:
    for side in (-1, 1):
        raised = state == "jumping" or (state == "waving" and side == 1)
        hand = (side * 0.34, 0.86) if raised else (side * 0.25, 0.34)
        elbow = (side * 0.27, 0.66) if raised else (side * 0.2, 0.48)
        pen.limb([(side * 0.11, 0.6), elbow], 0.09, sleeve)
        pen.limb([elbow, hand], 0.075, skin)


def _face(pen: Pen, skin: Rgb, hair: Rgb) -> None:
    pen.oval(0, 0.8, 0.155, 0.165, skin)
    pen.blob(
        [(-0.17, 0.8), (-0.13, 0.94), (0, 0.985), (0.13, 0.94), (0.17, 0.8), (0.08, 0.885), (-0.04, 0.9)],
        hair,
    )
    for side in (-1, 1):
        pen.oval(side * 0.06, 0.8, 0.02, 0.026, INK, outline=False)
        pen.oval(side * 0.095, 0.745, 0.025, 0.016, (236, 130, 120), outline=False)
    pen.limb([(-0.04, 0.727), (0, 0.715), (0.04, 0.727)], 0.018, (160, 60, 60), outline=False)
