"""The charts of a report, as SVG inside the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from .svg import WIDTH, Scale, frame, number, words, x_axis, y_axis

MOST_POINTS = 2_000_000
_LEFT, _RIGHT = 52, WIDTH - 12  # of a plot that has a y axis
_EDGE, _BELOW = 4, 36  # of one that hasn't; room for an x axis
_LEVELS = 6  # shades of a density in the style sheet


@dataclass(frozen=True)
class Bar:
    """A bar: its label, length, colour's number in the style sheet and what is written beside the label."""

    label: str
    value: float
    series: int
    text: str


@dataclass(frozen=True)
class Strip:
    """One row's samples in seconds, and their percentiles p50, p95 and p99."""

    label: str
    series: int
    samples: Sequence[float]
    percentiles: dict[str, float]


@dataclass(frozen=True)
class Group:
    """Bars side by side over one label: (name, colour's number, percent)."""

    label: str
    bars: Sequence[tuple[str, int, float]]


def bar_chart(bars: Sequence[Bar], axis: str) -> Markup:
    """Horizontal bars from zero, each under its label."""
    band, top = 42, 4
    bottom = top + band * len(bars) + 4
    scale = Scale.from_zero(max(bar.value for bar in bars), _EDGE, WIDTH - _EDGE)
    parts = [x_axis(scale, top, bottom, axis)]
    for place, bar in enumerate(bars):
        y = top + band * place
        length = max(scale.at(bar.value) - scale.first, 1)
        box = Markup('<rect class="s{}" x="{}" y="{}" width="{:.1f}" height="16" rx="3"/>')
        parts += [
            words(_EDGE, y + 15, bar.label, "label"),
            words(WIDTH - _EDGE, y + 15, bar.text, "value end"),
            box.format(bar.series, _EDGE, y + 21, length),
        ]
    return frame(bottom + _BELOW, f"bars of {axis}", parts)


def strip_chart(strips: Sequence[Strip], axis: str) -> Markup:
    """Every sample as a dot, in milliseconds, a row each; lines at p50 (tall), p95 and p99 (short)."""
    band, top = 54, 4
    bottom = top + band * len(strips) + 4
    scale = Scale.from_zero(1000 * max(max(strip.samples) for strip in strips), _EDGE, WIDTH - _EDGE)
    parts = [x_axis(scale, top, bottom, axis)]
    for place, strip in enumerate(strips):
        y = top + band * place
        p50, p95, p99 = (1000 * strip.percentiles[name] for name in ("p50", "p95", "p99"))
        dots = "".join(f"M{scale.at(1000 * sample):.1f} {y + 36}h0" for sample in strip.samples)
        lines = f"M{scale.at(p50):.1f} {y + 24}v24" + "".join(f"M{scale.at(p):.1f} {y + 30}v12" for p in (p95, p99))
        parts += [
            words(_EDGE, y + 15, strip.label, "label"),
            words(WIDTH - _EDGE, y + 15, " · ".join(map(number, (p50, p95, p99))), "value end"),
            Markup('<path class="dots t{}" d="{}"/><path class="mark" d="{}"/>').format(strip.series, dots, lines),
        ]
    return frame(bottom + _BELOW, f"samples of {axis}", parts)


def group_chart(groups: Sequence[Group], y_label: str, x_label: str) -> Markup:
    """Upright bars in percent, from zero to a hundred."""
    top, bottom = 12, 200
    scale = Scale(0, 100, bottom, top, ticks=5)
    parts = [y_axis(scale, _LEFT, _RIGHT, y_label)]
    width = (_RIGHT - _LEFT) / len(groups)
    for column, group in enumerate(groups):
        centre = _LEFT + width * (column + 0.5)
        each = min(24.0, (width - 14) / len(group.bars))
        for place, (name, series, percent) in enumerate(group.bars):
            x, y = centre + each * (place - len(group.bars) / 2), scale.at(percent)
            parts.append(
                Markup(
                    '<rect class="s{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">'
                    "<title>{}, {}: {:.2f} %</title></rect>"
                ).format(series, x, y, each - 1.5, bottom - y, name, group.label, percent)
            )
        parts.append(words(centre, bottom + 14, group.label, "tick middle"))
    parts.append(words((_LEFT + _RIGHT) / 2, bottom + 30, x_label, "axis middle"))
    return frame(bottom + _BELOW, f"{y_label} by {x_label}", parts)


def score_chart(reference: NDArray[np.floating], scores: NDArray[np.floating], series: int, name: str) -> Markup:
    """Scores (n,) against the reference's (n,), one range on both axes, and the line where they are equal."""
    low = float(min(reference.min(), scores.min()))
    high = float(max(reference.max(), scores.max()))
    across, up = Scale(low, high, _LEFT, _RIGHT, ticks=6), Scale(low, high, 262, 12, ticks=6)
    line = (across.at(low), up.at(low), across.at(high), up.at(high))
    labels = "score in PyTorch FP32", f"score in {name}"
    return _density(reference, scores, series, (across, up), (48, 48), labels, line)


def difference_chart(reference: NDArray[np.floating], scores: NDArray[np.floating], series: int) -> Markup:
    """The difference of scores (n,) from the reference's (n,), by the reference's score, and the line of no change."""
    difference = scores.astype(np.float64) - reference
    largest = float(np.abs(difference).max()) or 1e-9
    across = Scale(float(reference.min()), float(reference.max()), _LEFT, _RIGHT, ticks=6)
    up = Scale(-largest, largest, 172, 12, ticks=5)
    line = (_LEFT, up.at(0), _RIGHT, up.at(0))
    # An odd number of rows puts "no change" into the middle of one.
    return _density(reference, difference, series, (across, up), (48, 25), ("score in PyTorch FP32", "Δ score"), line)


def sample_points(*matrices: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The values of matrices of one shape, flat; of more than two million the same of each, drawn with seed 0."""
    size = matrices[0].size
    if size <= MOST_POINTS:
        return [matrix.ravel() for matrix in matrices]
    chosen = np.random.default_rng(0).integers(size, size=MOST_POINTS)
    return [matrix.ravel()[chosen] for matrix in matrices]


def _density(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    series: int,
    scales: tuple[Scale, Scale],
    cells: tuple[int, int],
    labels: tuple[str, str],
    line: tuple[float, float, float, float],
) -> Markup:
    """How many points (n,), (n,) fall into each cell: the fuller, the darker, by the logarithm."""
    across, up = scales
    limits = [[across.low, across.high], [up.low, up.high]]
    counts, _, _ = np.histogram2d(x, y, bins=cells, range=limits)  # (across, up)
    shades = np.zeros(counts.shape, np.int64)
    full = counts > 0
    shades[full] = 1 + np.rint(np.log(counts[full]) / math.log(max(counts.max(), 2)) * (_LEVELS - 1)).astype(np.int64)
    width, height = (across.last - across.first) / cells[0], (up.first - up.last) / cells[1]
    parts = [y_axis(up, _LEFT, _RIGHT, labels[1]), x_axis(across, up.last, up.first, labels[0])]
    parts.append(Markup('<path class="guide" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(*line))
    for shade in range(1, _LEVELS + 1):
        path = "".join(
            f"M{across.first + i * width:.1f} {up.first - (j + 1) * height:.1f}h{width:.1f}v{height:.1f}h-{width:.1f}z"
            for i, j in np.argwhere(shades == shade).tolist()
        )
        parts.append(Markup('<path class="s{} l{}" d="{}"/>').format(series, shade, path))
    return frame(up.first + _BELOW, f"{labels[1]} against {labels[0]}", parts)
