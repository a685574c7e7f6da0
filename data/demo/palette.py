"""The named colours of captions, and a thing's look: its colours, its state and details that no caption mentions."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .pen import Rgb
from .scenes import Thing

COLOURS: dict[str, Rgb] = {
    "red": (218, 44, 48),
    "blue": (40, 92, 212),
    "green": (48, 158, 74),
    "yellow": (250, 208, 48),
    "orange": (242, 132, 30),
    "purple": (136, 66, 178),
    "pink": (248, 140, 184),
    "white": (246, 246, 242),
    "black": (48, 46, 54),
    "gray": (150, 152, 160),
    "brown": (142, 88, 50),
}
WHITE: Rgb = (250, 250, 248)
INK: Rgb = (40, 32, 44)
_SPREAD = 12


@dataclass(frozen=True)
class Look:
    """The properties that a shape is drawn with."""

    colour: Rgb
    accent: Rgb
    state: str
    seed: int

    @classmethod
    def of(cls, thing: Thing) -> Look:
        """The named colours with small random variations."""
        rng = Random(thing.look)
        colour = _shade(COLOURS[thing.colour], rng)
        accent = _shade(COLOURS[thing.accent], rng) if thing.accent else WHITE
        return cls(colour, accent, thing.state, rng.getrandbits(32))

    def rng(self) -> Random:
        return Random(self.seed)


def _shade(colour: Rgb, rng: Random) -> Rgb:
    light = rng.randint(-_SPREAD, _SPREAD)
    r, g, b = (min(255, max(0, c + light + rng.randint(-5, 5))) for c in colour)
    return r, g, b
