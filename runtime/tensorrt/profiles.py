"""Optimisation profiles as the runtime sees them: which sizes an engine takes, and which profile suits a call.

A profile gives every input tensor a smallest, a best and a largest shape. Here it is one range per axis: tensors share
their axes, as image_states and image_lengths share the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import NamedTuple

from ...bundle import CAPTIONS, IMAGES, INPUTS, REGIONS, WORDS
from ...errors import InputError
from ...tiling import TileSize

Sizes = dict[str, int]  # axis → size
Shape = tuple[int, ...]


class Range(NamedTuple):
    """Smallest, best and largest size of an axis."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return str(self.max) if self.min == self.max else f"{self.min} to {self.max}"


@dataclass(frozen=True)
class Profile:
    """One of a graph's profiles; `index` is TensorRT's number of it."""

    index: int
    name: str
    axes: dict[str, Range]

    @classmethod
    def of_shapes(cls, graph: str, index: int, name: str, shapes: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
        """shapes: {input: (smallest, best, largest shape)}, as an engine gives them."""
        axes: dict[str, Range] = {}
        for tensor, names in INPUTS[graph].items():
            for position, axis in enumerate(names):
                own = Range(*(int(shape[position]) for shape in shapes[tensor]))
                other = axes.get(axis, own)
                axes[axis] = Range(max(own.min, other.min), own.opt, min(own.max, other.max))
        return cls(index, name, axes)

    def fit(self, sizes: Sizes) -> Sizes | None:
        """The sizes at which it runs a call of these sizes: padded where they are too small. None: too large for it."""
        if any(sizes[axis] > limits.max for axis, limits in self.axes.items()):
            return None
        return {axis: max(sizes[axis], limits.min) for axis, limits in self.axes.items()}

    def distance(self, sizes: Sizes) -> float:
        """How far sizes are from what it was tuned for; 0 at best."""
        return sum(abs(log(sizes[axis] / limits.opt)) for axis, limits in self.axes.items())

    def __str__(self) -> str:
        return f"{self.name}: {_text({axis: str(limits) for axis, limits in self.axes.items()})}"


def choose_profile(graph: str, profiles: Sequence[Profile], sizes: Sizes) -> tuple[Profile, Sizes]:
    """The profile that is tuned for the nearest sizes, and the sizes to run at.

    Raises InputError, naming the graph, the sizes and every profile, for a call that is too large for all of them.
    """
    fitting = [(profile, fitted) for profile in profiles if (fitted := profile.fit(sizes)) is not None]
    if not fitting:
        raise InputError(
            f"the engine's {graph} does not take {_text({axis: str(size) for axis, size in sizes.items()})}; its"
            f" profiles take {'; '.join(map(str, profiles))}. Build it with a larger --profile"
        )
    return min(fitting, key=lambda pair: pair[0].distance(sizes))


def sizes_of(graph: str, shapes: Mapping[str, Shape]) -> Sizes:
    """{axis: size} of a call's inputs {tensor: shape}."""
    return {
        axis: size for tensor, axes in INPUTS[graph].items() for axis, size in zip(axes, shapes[tensor], strict=False)
    }


def item_limits(profiles: Mapping[str, Sequence[Profile]]) -> dict[str, int]:
    """The most regions and words for which every graph has a profile, whatever the other of the two is."""

    def room(profile: Profile) -> int:
        return profile.axes[REGIONS].max * profile.axes[WORDS].max

    widest = max(profiles["scorer"], key=room)
    regions = max(profile.axes[REGIONS].max for profile in profiles["image_encoder"])
    words = max(profile.axes[WORDS].max for profile in profiles["text_encoder"])
    return {"regions": min(regions, widest.axes[REGIONS].max), "words": min(words, widest.axes[WORDS].max)}


def tile_limits(profiles: Sequence[Profile], regions: int, words: int) -> list[TileSize]:
    """The scorer's largest tiles for items of up to so many regions and words."""
    return [
        TileSize(profile.axes[IMAGES].max, profile.axes[CAPTIONS].max)
        for profile in profiles
        if profile.axes[REGIONS].max >= regions and profile.axes[WORDS].max >= words
    ]


def batch_limit(profiles: Sequence[Profile], batch: str, length: str, longest: int) -> int:
    """The most items that an encoder takes in one call if the longest is so long; 1 if it takes none, which is refused
    when it comes to run."""
    return max((p.axes[batch].max for p in profiles if p.axes[length].max >= longest), default=1)


def _text(sizes: Mapping[str, str]) -> str:
    return " × ".join(f"{size} {axis}" for axis, size in sizes.items())
