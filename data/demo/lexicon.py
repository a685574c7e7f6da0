"""The words of the demo captions for kinds, states, places and skies."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Noun:
    """The words for a kind and its colour."""

    one: tuple[str, ...]
    many: tuple[str, ...] = ()
    adjectives: dict[str, str] = field(default_factory=dict)  # state: word before the colour
    garment: tuple[str, ...] = ()  # if the colour is that of clothing
    accent: str = ""  # phrase for the second colour
    name_colour: bool = True


@dataclass(frozen=True)
class PlaceWords:
    """Prepositional phrases of a place."""

    on: tuple[str, ...]  # for things that stand there
    around: tuple[str, ...]  # for anything there
    below: tuple[str, ...]  # for things that fly there
    settings: tuple[str, ...]  # noun phrases that open a sentence


NUMBERS = {2: "two", 3: "three"}
TINY = ("small", "little", "tiny")

_DRESS = ("in {a} {colour} dress", "wearing {a} {colour} dress", "dressed in {colour}")
_SHIRT = ("in {a} {colour} shirt", "wearing {a} {colour} shirt", "with {a} {colour} shirt")

NOUNS: dict[str, Noun] = {
    "dog": Noun(("dog",), adjectives={"running": "running", "sitting": "sitting"}),
    "cat": Noun(("cat",), adjectives={"sleeping": "sleeping", "sitting": "sitting"}),
    "horse": Noun(("horse",), adjectives={"running": "galloping"}),
    "sheep": Noun(("sheep",), adjectives={"": "woolly"}),
    "duck": Noun(("duck",), ("ducks",)),
    "girl": Noun(("girl",), adjectives={"waving": "waving", "jumping": "jumping"}, garment=_DRESS),
    "boy": Noun(("boy",), adjectives={"waving": "waving", "jumping": "jumping"}, garment=_SHIRT),
    "house": Noun(("house", "house", "home"), accent="with a {accent} roof"),
    "tent": Noun(("tent",)),
    "tree": Noun(("tree",), adjectives={"fruit": "fruit laden"}),
    "pine": Noun(("pine tree", "fir tree"), adjectives={"snowy": "snow covered"}, name_colour=False),
    "flower": Noun(("flower",), ("flowers",)),
    "umbrella": Noun(("umbrella", "parasol")),
    "ball": Noun(("ball",), adjectives={"striped": "striped"}),
    "car": Noun(("car",)),
    "bus": Noun(("bus",)),
    "snowman": Noun(("snowman",), garment=("with {a} {colour} scarf", "wearing {a} {colour} scarf")),
    "lighthouse": Noun(("lighthouse",), adjectives={"": "striped"}),
    "boat": Noun(("boat", "sailboat"), accent="with {accent} sails"),
    "whale": Noun(("whale",), adjectives={"spouting": "spouting"}),
    "bird": Noun(("bird",), ("birds",)),
    "balloon": Noun(("hot air balloon", "balloon"), accent="{colour} and {accent}"),
    "kite": Noun(("kite",)),
    "plane": Noun(("plane", "airplane")),
}

_STANDS = ("stands", "is standing")
_CHILD = {
    "standing": _STANDS,
    "waving": ("waves", "is waving"),
    "jumping": ("jumps", "is jumping", "jumps with both arms up"),
}

VERBS: dict[str, dict[str, tuple[str, ...]]] = {
    "dog": {"standing": _STANDS, "sitting": ("sits", "is sitting"), "running": ("runs", "is running")},
    "cat": {
        "sitting": ("sits", "is sitting"),
        "sleeping": ("sleeps", "is sleeping"),
        "walking": ("walks", "is walking"),
    },
    "horse": {"standing": _STANDS, "running": ("gallops", "runs", "is galloping")},
    "sheep": {"": _STANDS},
    "duck": {"": _STANDS},
    "girl": _CHILD,
    "boy": _CHILD,
    "house": {
        "plain": ("stands",),
        "smoking": ("stands with smoke rising from its chimney", "stands with a smoking chimney"),
    },
    "tent": {"": ("stands", "is pitched")},
    "tree": {"plain": ("grows", "stands"), "fruit": ("is full of red fruit", "bears red fruit")},
    "pine": {"plain": ("grows", "stands"), "snowy": ("stands with snow on it", "is covered in snow")},
    "flower": {"": ("grows", "blooms")},
    "umbrella": {"": ("stands", "is open")},
    "ball": {"plain": ("lies", "is lying"), "striped": ("lies", "is lying")},
    "car": {"": ("drives", "is driving")},
    "bus": {"": ("drives", "is driving")},
    "snowman": {"": _STANDS},
    "lighthouse": {"": ("stands", "rises")},
    "boat": {"": ("sails", "is sailing")},
    "whale": {"plain": ("swims", "is swimming"), "spouting": ("spouts water", "is spouting water")},
    "bird": {"": ("flies", "is flying")},
    "balloon": {"": ("floats", "hovers", "is floating")},
    "kite": {"": ("flies", "is flying")},
    "plane": {"": ("flies", "is flying")},
}
VERBS_AFLOAT: dict[str, tuple[str, ...]] = {
    "duck": ("swims", "is swimming", "floats"),
    "ball": ("floats", "is floating"),
}
VERBS_OF_MANY: dict[str, tuple[str, ...]] = {
    "duck": ("stand", "are standing"),
    "duck afloat": ("swim", "are swimming", "float"),
    "flower": ("grow", "bloom"),
    "bird": ("fly", "are flying"),
}

PLACES: dict[str, PlaceWords] = {
    "meadow": PlaceWords(
        ("on the grass", "on green grass"),
        ("in a meadow", "in a grassy field", "in the meadow"),
        ("over the meadow", "above a grassy field"),
        ("a meadow", "a grassy field"),
    ),
    "snow": PlaceWords(
        ("in the snow", "on snowy ground"),
        ("in a snowy landscape", "in front of snowy mountains"),
        ("over the snow", "above a snowy field"),
        ("a snowy landscape", "a snowy field"),
    ),
    "beach": PlaceWords(
        ("on the beach", "on the sand", "on a sandy beach"),
        ("at the beach", "by the shore"),
        ("over the beach", "above the shore"),
        ("a beach", "a sandy beach"),
    ),
    "desert": PlaceWords(
        ("on the desert ground",),
        ("in the desert", "in a desert with cactuses"),
        ("over the desert", "above the dunes"),
        ("a desert", "a desert landscape"),
    ),
    "street": PlaceWords(
        ("on the street", "on the road", "on a city street"),
        ("in the city", "in front of tall buildings"),
        ("over the city", "above the street"),
        ("a city street", "a street"),
    ),
    "sea": PlaceWords(
        ("on the water", "on the waves", "in the water"),
        ("at sea", "out at sea"),
        ("over the sea", "above the water"),
        ("the sea", "the open sea"),
    ),
}

SKIES: dict[str, tuple[str, ...]] = {
    "day": ("on a sunny day", "under a blue sky", "in the sunshine"),
    "sunset": ("at sunset", "under an orange sky", "as the sun sets"),
    "night": ("at night", "under the stars", "in the moonlight"),
}
