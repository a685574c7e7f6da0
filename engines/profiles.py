"""Optimization profiles: the input shapes an engine takes, and those it is tuned for.

A profile gives every input tensor a smallest, an optimal and a largest shape. Here it is also one range per axis, since
tensors share axes: image_states and image_lengths share the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, NamedTuple

from ..bundle import INPUTS

Sizes = dict[str, int]  # axis → size
Shape = tuple[int, ...]


class Range(NamedTuple):
    """Smallest, tuned-for and largest size of an axis."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return str(self.max) if self.min == self.opt == self.max else f"{self.min}/{self.opt}/{self.max}"


class Shapes(NamedTuple):
    """Smallest, tuned-for and largest shape of an input tensor."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True)
class Profile:
    """One of a graph's profiles."""

    name: str
    axes: dict[str, Range]
    shapes: dict[str, Shapes]  # of each input tensor

    @classmethod
    def of_shapes(cls, graph: str, name: str, shapes: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
        """shapes: {input: (smallest, optimal, largest shape)}, from an engine or its record.

        Raises ValueError if a tensor's shapes lack axes, KeyError if an input is missing.
        """
        axes: dict[str, Range] = {}
        for tensor, names in INPUTS[graph].items():
            ends = list(zip(*shapes[tensor], strict=True))
            for axis, sizes in zip(names, ends[: len(names)], strict=True):
                limits = Range(*map(int, sizes))
                other = axes.get(axis, limits)
                axes[axis] = Range(max(limits.min, other.min), limits.opt, min(limits.max, other.max))
        return cls(name, axes, {tensor: Shapes(*map(tuple, ends)) for tensor, ends in shapes.items()})

    def as_dict(self) -> dict[str, Any]:
        """`{"name", "shapes": {TENSOR: {"min": […], "opt": […], "max": […]}}}`, as in the manifest."""
        shapes = {tensor: {key: list(size) for key, size in s._asdict().items()} for tensor, s in self.shapes.items()}
        return {"name": self.name, "shapes": shapes}

    def fit(self, sizes: Sizes) -> Sizes | None:
        """The sizes to run a call at: padded up to the minimum. None: too large for this profile."""
        if any(sizes[axis] > limits.max for axis, limits in self.axes.items()):
            return None
        return {axis: max(sizes[axis], limits.min) for axis, limits in self.axes.items()}

    def distance(self, sizes: Sizes) -> float:
        """Distance of sizes from those it is tuned for; 0 if equal."""
        return sum(abs(log(sizes[axis] / limits.opt)) for axis, limits in self.axes.items())
