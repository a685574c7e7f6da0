"""Captions of a demo scene: a small grammar of true but incomplete descriptions."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .lexicon import NOUNS, NUMBERS, PLACES, SKIES, TINY, VERBS, VERBS_AFLOAT, VERBS_OF_MANY
from .scenes import KINDS, Scene, Thing

CAPTIONS_PER_SCENE = 5
_MIN_WORDS, _MAX_WORDS = 5, 22


def write_captions(scene: Scene, rng: Random) -> list[str]:
    """Five different sentences, lower case, tokens separated by spaces; deterministic for the same `rng`."""
    writer = _Writer(scene, rng)
    forms: list[Callable[[], str]] = []
    captions: list[str] = []
    while len(captions) < CAPTIONS_PER_SCENE:
        if not forms:
            forms = writer.forms()
            rng.shuffle(forms)
        caption = " ".join(forms.pop()().split())
        if rng.random() < 0.6:
            caption += " ."
        if _MIN_WORDS <= len(caption.split()) <= _MAX_WORDS and caption not in captions:
            captions.append(caption)
    return captions


class _Writer:
    def __init__(self, scene: Scene, rng: Random) -> None:
        self._scene = scene
        self._rng = rng

    def forms(self) -> list[Callable[[], str]]:
        """The sentence patterns; each call of one makes a new sentence."""
        forms = [
            self._one,
            self._pair,
            self._while,
            self._there,
            self._scene_with,
            self._place_first,
            self._related,
        ]
        return [*forms, self._related, self._all] if len(self._scene.things) > 2 else [*forms, self._related]

    def _one(self) -> str:
        thing = self._rng.choice(self._scene.things)
        rest = f"{self._place(thing)} {self._sky()}"
        return f"{self._doing(thing, plain=0.0)} {rest}"

    def _pair(self) -> str:
        a, b = self._two()
        return f"{self._noun(a)} and {self._noun(b)} {self._place(a, b)} {self._maybe(self._sky(), 0.4)}"

    def _while(self) -> str:
        a, b = self._two()
        return f"{self._doing(a)} while {self._doing(b)} {self._maybe(self._sky(), 0.4)}"

    def _there(self) -> str:
        a, b = self._two()
        be = "are" if a.count > 1 else "is"
        sides = self._side(a), self._side(b)
        if sides[0] == sides[1]:
            sides = "", self._place(a, b)
        return f"there {be} {self._noun(a)} {sides[0]} and {self._noun(b)} {sides[1]}"

    def _scene_with(self) -> str:
        a, b = self._two()
        setting = self._rng.choice(PLACES[self._scene.place].settings)
        return f"{setting} {self._maybe(self._sky(), 0.6)} with {self._noun(a)} and {self._noun(b)}"

    def _place_first(self) -> str:
        a, b = self._two()
        lead = self._rng.choice((self._place(a), self._sky()))
        return f"{lead} , {self._doing(a, heading=False)} {self._relation(a, b)} {self._noun(b)}"

    def _related(self) -> str:
        a, b = self._two()
        be = self._rng.choice(("", "are" if a.count > 1 else "is"))
        where = self._rng.choice((self._place(a, b), self._sky(), ""))
        return f"{self._noun(a)} {be} {self._relation(a, b)} {self._noun(b)} {where}"

    def _all(self) -> str:
        things = self._rng.sample(self._scene.things, 3)
        a, b, c = (self._noun(thing, plain=0.2) for thing in things)
        return f"{a} , {b} and {c} {self._maybe(self._place(*things), 0.5)}"

    def _two(self) -> tuple[Thing, Thing]:
        a, b = self._rng.sample(self._scene.things, 2)
        return a, b

    def _maybe(self, phrase: str, chance: float) -> str:
        return phrase if self._rng.random() < chance else ""

    def _doing(self, thing: Thing, *, plain: float = 0.12, heading: bool = True) -> str:
        """What a thing is and does."""
        return f"{self._noun(thing, plain, state=False)} {self._verb(thing, heading)}"

    def _noun(self, thing: Thing, plain: float = 0.12, *, state: bool = True) -> str:
        """A noun phrase; with probability `plain` without the colour. `state`: include what a verb would say."""
        rng = self._rng
        colour = "" if rng.random() < plain else thing.colour
        noun = NOUNS[thing.kind]
        size = self._maybe(
            "" if thing.size == "medium" else rng.choice(TINY if thing.size == "small" else ("big", "large")),
            0.6,
        )
        adjectives, tail = [size], ""
        if state:
            adjectives.append(self._maybe(noun.adjectives.get(thing.state, ""), 0.6))
        if noun.garment:
            tail = rng.choice(noun.garment).format(colour=colour, a=_article(colour)) if colour else ""
        elif thing.accent and colour and noun.accent:
            phrase = noun.accent.format(colour=colour, accent=thing.accent)
            if phrase.startswith(colour):
                colour = phrase if rng.random() < 0.4 else colour
            else:
                tail = self._maybe(phrase, 0.5 if state else 0.0)
            adjectives.append(colour)
        elif noun.name_colour:
            adjectives.append(colour)
        words = " ".join([*adjectives, rng.choice(noun.many if thing.count > 1 else noun.one)]).split()
        first = NUMBERS[thing.count] if thing.count > 1 else _article(words[0])
        return " ".join([first, *words, tail]).strip()

    def _verb(self, thing: Thing, heading: bool) -> str:
        afloat = self._scene.place == "sea" and thing.kind in VERBS_AFLOAT
        if thing.count > 1:
            verb = self._rng.choice(VERBS_OF_MANY["duck afloat" if afloat else thing.kind])
        else:
            verb = self._rng.choice(VERBS_AFLOAT[thing.kind] if afloat else VERBS[thing.kind][thing.state])
        if thing.facing == "front" or not heading:
            return verb
        if thing.kind in ("car", "bus", "plane", "boat", "bird"):
            return f"{verb} {self._maybe('to the ' + thing.facing, 0.5)}"
        return f"{verb} {self._maybe('facing ' + thing.facing, 0.2)}"

    def _place(self, *things: Thing) -> str:
        place = PLACES[self._scene.place]
        if all(KINDS[thing.kind].habitat == "sky" for thing in things):
            return self._rng.choice(place.below)
        if any(KINDS[thing.kind].habitat == "sky" for thing in things):
            return self._rng.choice(place.around)
        return self._rng.choice((*place.on, *place.around))

    def _sky(self) -> str:
        return self._rng.choice(SKIES[self._scene.sky])

    def _side(self, thing: Thing) -> str:
        if thing.x < 0.4:
            return "on the left"
        return "on the right" if thing.x > 0.6 else "in the middle"

    def _relation(self, a: Thing, b: Thing) -> str:
        return self._rng.choice(relations(a, b) or ["together with"])


def _article(word: str) -> str:
    if not word:
        return ""
    return "an" if word[0] in "aeiou" else "a"


def relations(a: Thing, b: Thing) -> list[str]:
    """Phrases for the position of `a` relative to `b`."""
    apart, touching = b.x - a.x, (a.width + b.width) / 2
    both_down = "sky" not in (KINDS[a.kind].habitat, KINDS[b.kind].habitat)
    phrases = []
    if apart > 0.16:
        phrases += ["to the left of", "left of"]
    if apart < -0.16:
        phrases += ["to the right of", "right of"]
    if both_down and abs(apart) < touching + 0.1 and abs(a.base - b.base) < 0.12:
        phrases += ["next to", "beside"]
    if both_down and abs(apart) < touching + 0.02 and abs(a.base - b.base) > 0.14:
        phrases += ["in front of"] if a.base > b.base else ["behind"]
    if not both_down and abs(apart) < touching and a.base < b.base - b.height:
        phrases += ["above", "over"]
    if not both_down and abs(apart) < touching and b.base < a.base - a.height:
        phrases += ["below", "under"]
    return phrases
