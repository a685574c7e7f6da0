"""What charts are drawn with: a scale with round ticks, axes, words, the frame. 360 units wide, to suit a phone.

Colours and type come from the page's style sheet, which has a light and a dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup

WIDTH = 360


class Scale:
    """Values to places along an axis: `low` lies at `first`, `high` at `last`; ticks are round numbers between."""

    def __init__(self, low: float, high: float, first: float, last: float, ticks: int = 4) -> None:
        self.low, self.high = low, high if high > low else low + 1
        self.first, self.last = first, last
        step = _round_step((self.high - self.low) / ticks)
        self.ticks = [
            n * step for n in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        ]

    @classmethod
    def from_zero(cls, high: float, first: float, last: float, ticks: int = 4) -> Scale:
        """From zero to the round number that holds `high`."""
        step = _round_step(high / ticks) if high > 0 else 1.0
        return cls(0, math.ceil(high / step - 1e-9) * step, first, last, ticks)

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def frame(height: float, name: str, parts: Iterable[Markup]) -> Markup:
    """The parts as one picture, `name` being what a screen reader says."""
    return Markup('<svg viewBox="0 0 {} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, height, name, Markup("").join(parts)
    )


def words(x: float, y: float, text: str, kind: str) -> Markup:
    """A line of text; `kind`: classes of the style sheet."""
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}">{}</text>').format(x, y, kind, text)


def number(value: float) -> str:
    """Three digits, from a thousand on all of them."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", "\N{MINUS SIGN}")


def x_axis(scale: Scale, top: float, bottom: float, label: str) -> Markup:
    """Lines from top to bottom at the ticks, their numbers and the label below: 34 units."""
    lines = "".join(f"M{scale.at(tick):.1f} {top:g}V{bottom:g}" for tick in scale.ticks)
    numbers = [words(scale.at(tick), bottom + 13, number(tick), f"tick {_side(scale, tick)}") for tick in scale.ticks]
    title = words((scale.first + scale.last) / 2, bottom + 29, label, "axis middle")
    return Markup('<path class="grid" d="{}"/>').format(lines) + Markup("").join(numbers) + title


def y_axis(scale: Scale, left: float, right: float, label: str) -> Markup:
    """Lines from left to right at the ticks, their numbers to the left, the label upright at the edge."""
    lines = "".join(f"M{left:g} {scale.at(tick):.1f}H{right:g}" for tick in scale.ticks)
    numbers = [words(left - 4, scale.at(tick) + 4, number(tick), "tick end") for tick in scale.ticks]
    middle = (scale.first + scale.last) / 2
    title = Markup('<text transform="translate(10 {:.0f}) rotate(-90)" class="axis middle">{}</text>').format(
        middle, label
    )
    return Markup('<path class="grid" d="{}"/>').format(lines) + Markup("").join(numbers) + title


def _side(scale: Scale, tick: float) -> str:
    """Numbers at the picture's edges must not stick out of it."""
    if scale.at(tick) > WIDTH - 16:
        return "end"
    return "start" if scale.at(tick) < 12 else "middle"


def _round_step(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-9))
