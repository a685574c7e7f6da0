"""The contents of a demo scene: kinds of things, their looks and positions, and random sampling.

Coordinates are fractions of the picture: x to the right, y down, (0, 0) the upper left corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

Place = Literal["meadow", "snow", "beach", "desert", "street", "sea"]
Sky = Literal["day", "sunset", "night"]
Size = Literal["small", "medium", "big"]
Facing = Literal["left", "right", "front"]

PLACES: tuple[Place, ...] = ("meadow", "snow", "beach", "desert", "street", "sea")
SKIES: tuple[Sky, ...] = ("day", "sunset", "night")
HORIZON = 0.52
_MAX_TRIES = 200
_BRIGHT = ("red", "blue", "green", "yellow", "orange", "purple", "pink", "white", "black")


@dataclass(frozen=True)
class Kind:
    """A kind of thing: its height (fraction of the picture), width/height ratio, and possible properties."""

    height: float
    aspect: float
    colours: tuple[str, ...]
    habitat: Literal["ground", "water", "sky"] = "ground"
    states: tuple[str, ...] = ("",)
    accents: tuple[str, ...] = ("",)
    turns: bool = False
    most: int = 1
    places: tuple[Place, ...] = PLACES


_PETALS = tuple(colour for colour in _BRIGHT if colour not in ("green", "black"))
_CITY: tuple[Place, ...] = ("meadow", "snow", "desert", "street")
_GREEN: tuple[Place, ...] = ("meadow", "snow", "street")

KINDS: dict[str, Kind] = {
    "dog": Kind(
        0.27, 1.4, ("brown", "black", "white", "orange"), states=("standing", "sitting", "running"), turns=True
    ),
    "cat": Kind(0.25, 1.1, ("black", "white", "orange", "gray"), states=("sitting", "sleeping", "walking"), turns=True),
    "horse": Kind(0.37, 1.4, ("brown", "black", "white"), states=("standing", "running"), turns=True),
    "sheep": Kind(0.24, 1.3, ("white", "black", "pink"), turns=True),
    "duck": Kind(0.17, 1.1, ("white", "yellow", "brown"), habitat="water", turns=True, most=3),
    "girl": Kind(0.34, 0.6, _BRIGHT[:8], states=("standing", "waving", "jumping")),
    "boy": Kind(0.34, 0.6, _BRIGHT[:8], states=("standing", "waving", "jumping")),
    "house": Kind(
        0.42,
        1.0,
        ("red", "blue", "yellow", "white", "pink", "green"),
        states=("plain", "smoking"),
        accents=("brown", "gray", "red"),
    ),
    "tent": Kind(0.27, 1.35, _BRIGHT[:7]),
    "tree": Kind(0.44, 0.75, ("green", "orange", "pink", "yellow"), states=("plain", "fruit")),
    "pine": Kind(0.46, 0.6, ("green",), states=("plain", "snowy"), places=_GREEN),
    "flower": Kind(0.19, 0.6, _PETALS, most=3),
    "umbrella": Kind(0.33, 1.05, _BRIGHT[:7]),
    "ball": Kind(0.14, 1.0, _BRIGHT, states=("plain", "striped")),
    "car": Kind(0.19, 2.0, _BRIGHT, turns=True, places=_CITY),
    "bus": Kind(0.26, 1.9, ("red", "blue", "green", "yellow", "orange"), turns=True, places=("street", "desert")),
    "snowman": Kind(0.33, 0.72, ("red", "blue", "green", "yellow"), places=("snow",)),
    "lighthouse": Kind(0.52, 0.5, ("red", "blue", "green", "black"), habitat="water", places=("beach", "sea")),
    "boat": Kind(0.38, 0.85, _BRIGHT, habitat="water", accents=("white", "yellow", "red"), turns=True, places=("sea",)),
    "whale": Kind(
        0.25, 1.7, ("blue", "gray", "black"), habitat="water", states=("plain", "spouting"), turns=True, places=("sea",)
    ),
    "bird": Kind(0.13, 1.35, ("white", "black", "blue", "red", "yellow"), habitat="sky", turns=True, most=3),
    "balloon": Kind(0.3, 0.75, _BRIGHT[:7], habitat="sky", accents=("white", "yellow")),
    "kite": Kind(0.25, 0.85, _BRIGHT[:7], habitat="sky", places=("meadow", "snow", "beach", "desert")),
    "plane": Kind(0.16, 2.1, ("white", "red", "blue", "yellow"), habitat="sky", turns=True),
}

_SCALE: dict[Size, float] = {"small": 0.68, "medium": 1.0, "big": 1.3}
_FLOATS = ("ball",)


@dataclass(frozen=True)
class Thing:
    """One thing of a scene, or a row of `count` identical ones."""

    kind: str
    colour: str
    size: Size
    state: str
    accent: str
    facing: Facing
    count: int
    x: float  # of the centre
    base: float  # y of the bottom
    height: float  # of one member
    tilt: float  # radians, clockwise
    look: int  # seed of details that no caption mentions: shade, hair, the shape of a crown

    @property
    def width(self) -> float:
        """Nominal width of the whole row."""
        return self.member_width * (1 + 1.12 * (self.count - 1))

    @property
    def member_width(self) -> float:
        return self.height * KINDS[self.kind].aspect

    @property
    def member_x(self) -> list[float]:
        """The centre x of each member, from left to right."""
        step = 1.12 * self.member_width
        return [self.x + step * (i - (self.count - 1) / 2) for i in range(self.count)]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Nominal x0, y0, x1, y1; the drawn outline only approximates it."""
        return (
            self.x - self.width / 2,
            self.base - self.height - self.lift,
            self.x + self.width / 2,
            self.base,
        )

    @property
    def lift(self) -> float:
        """Height above its shadow."""
        return 0.13 * self.height if self.state == "jumping" else 0.0


@dataclass(frozen=True)
class Scene:
    """A place, a sky, and two to four things, no two of the same kind and colour."""

    place: Place
    sky: Sky
    things: tuple[Thing, ...]
    look: int  # seed of clouds, stars, grass


def sample_scene(rng: Random) -> Scene:
    """A random scene; deterministic for the same state of `rng`."""
    place, sky = rng.choice(PLACES), rng.choices(SKIES, weights=(2, 1, 1))[0]
    count = rng.choices((2, 3, 4), weights=(4, 5, 2))[0]
    things: list[Thing] = []
    for _ in range(_MAX_TRIES):
        if len(things) == count:
            break
        thing = _sample_thing(rng, place, things)
        if _fits(thing, things):
            things.append(thing)
    return Scene(place, sky, tuple(things), rng.getrandbits(32))


def _sample_thing(rng: Random, place: Place, others: list[Thing]) -> Thing:
    flying = sum(KINDS[thing.kind].habitat == "sky" for thing in others)
    names = [name for name, kind in KINDS.items() if _lives(name, kind, place)]
    if flying:  # one flying thing is enough, the ground is more interesting
        names = [name for name in names if KINDS[name].habitat != "sky"]
    name = rng.choice(names)
    kind = KINDS[name]
    size: Size = rng.choices(("small", "medium", "big"), weights=(3, 5, 2))[0]
    height = kind.height * _SCALE[size] * rng.uniform(0.94, 1.06)
    count = rng.choice((1, 1, *range(2, kind.most + 1)))
    if count > 1:
        height *= 0.85
    half = height * kind.aspect * (1 + 1.12 * (count - 1)) / 2
    if kind.habitat == "sky":
        base = rng.uniform(height + 0.05, max(height + 0.06, 0.44))
    else:
        base = rng.uniform(HORIZON + (0.14 if place == "beach" else 0.1), 0.95)
    return Thing(
        kind=name,
        colour=rng.choice(kind.colours),
        size=size,
        state=rng.choice(kind.states),
        accent=rng.choice(kind.accents),
        facing=rng.choice(("left", "right")) if kind.turns else "front",
        count=count,
        x=rng.uniform(half + 0.02, max(half + 0.03, 0.98 - half)),
        base=base,
        height=height,
        tilt=rng.uniform(-0.5, 0.5) if name in ("ball", "kite") else rng.uniform(-0.06, 0.06),
        look=rng.getrandbits(32),
    )


def _lives(name: str, kind: Kind, place: Place) -> bool:
    if place not in kind.places:
        return False
    if place == "sea":
        return kind.habitat != "ground" or name in _FLOATS
    return True


def _fits(thing: Thing, others: list[Thing]) -> bool:
    x0, y0, x1, y1 = thing.box
    if x0 < 0.01 or x1 > 0.99 or y0 < 0.02:
        return False
    if thing.accent == thing.colour:
        return False
    for other in others:
        if other.kind == thing.kind:
            return False
        a0, b0, a1, b1 = other.box
        overlap = max(0.0, min(x1, a1) - max(x0, a0)) * max(0.0, min(y1, b1) - max(y0, b0))
        if overlap > 0.025 * min((x1 - x0) * (y1 - y0), (a1 - a0) * (b1 - b0)):
            return False
    return True
