"""The charts of a report, drawn by matplotlib as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ..errors import needs
from .svg import DOTS, INK, LEFT, LINE, RIGHT, SOFT, WIDTH, below, canvas, colour, draw, markup, number, write

with needs("plot", "a report's charts"):
    from matplotlib.path import Path
    from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_POINTS = 2_000_000
_EDGE, _BELOW = 4, 36  # margin of a plot without one; room for an x axis
_SHADES = (0.2, 0.34, 0.5, 0.66, 0.83, 1.0)  # opacities of a density


@dataclass(frozen=True)
class Bar:
    """A bar: its label, length, colour number in the style sheet, and the text beside the label."""

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
    """Bars side by side over one label: (name, colour number, percent)."""

    label: str
    bars: Sequence[tuple[str, int, float]]


def bar_chart(bars: Sequence[Bar], axis: str) -> Markup:
    """Horizontal bars from zero, each under its label."""
    band, top = 42, 4
    bottom = top + band * len(bars) + 4
    figure, axes = canvas(bottom + _BELOW, _EDGE, WIDTH - _EDGE, top, bottom)
    axes.set(xlim=(0, _ticks(0, max(bar.value for bar in bars), 4, beyond=True)[-1]), ylim=(bottom - top, 0))
    _x_axis(axes, axis, 4)
    for place, bar in enumerate(bars):
        y = band * place
        # At least one unit long, to be visible.
        length = max(bar.value, axes.get_xlim()[1] / (WIDTH - 2 * _EDGE))
        axes.barh(y + 29, length, 16, color=colour(bar.series))
        _row_of_text(axes, y + 15, bar.label, bar.text)
    described = "; ".join(f"{bar.label}: {bar.text}" for bar in bars)
    return markup(figure, f"bars of {axis}", described)


def strip_chart(strips: Sequence[Strip], axis: str) -> Markup:
    """A row of dots per strip, one per sample, in milliseconds; lines at p50 (tall), p95 and p99 (short)."""
    band, top = 54, 4
    bottom = top + band * len(strips) + 4
    figure, axes = canvas(bottom + _BELOW, _EDGE, WIDTH - _EDGE, top, bottom)
    slowest = 1000 * max(max(strip.samples) for strip in strips)
    axes.set(xlim=(0, _ticks(0, slowest, 4, beyond=True)[-1]), ylim=(bottom - top, 0))
    _x_axis(axes, axis, 4)
    described = []
    for place, strip in enumerate(strips):
        y = band * place
        milliseconds = [1000 * strip.percentiles[name] for name in ("p50", "p95", "p99")]
        text = " · ".join(map(number, milliseconds))
        # Some browsers don't draw zero-length lines.
        dots = [(1000 * sample, y + 36 + up) for sample in strip.samples for up in (0.0, 0.1)]
        draw(axes, dots, [Path.MOVETO, Path.LINETO], edgecolor=(colour(strip.series), DOTS), linewidth=9)
        axes.vlines(milliseconds, [y + 24, y + 30, y + 30], [y + 48, y + 42, y + 42], colors=INK, linewidth=1.6)
        _row_of_text(axes, y + 15, strip.label, text)
        described.append(f"{strip.label}: p50, p95 and p99 {text}")
    return markup(figure, f"samples of {axis}", "; ".join(described))


def group_chart(groups: Sequence[Group], y_label: str, x_label: str) -> Markup:
    """Vertical bars in percent, from 0 to 100."""
    top, bottom = 12, 200
    figure, axes = canvas(bottom + _BELOW, LEFT, RIGHT, top, bottom)
    axes.set(xlim=(LEFT, RIGHT), ylim=(0, 100))
    _y_axis(axes, y_label, 5)
    width = (RIGHT - LEFT) / len(groups)
    described = []
    for column, group in enumerate(groups):
        centre = LEFT + width * (column + 0.5)
        each = min(24.0, (width - 14) / len(group.bars))
        for place, (name, series, percent) in enumerate(group.bars):
            x = centre + each * (place - len(group.bars) / 2)
            axes.bar(x, percent, each - 1.5, align="edge", color=colour(series))
            described.append(f"{name}, {group.label}: {percent:.2f} %")
        below(axes, (centre - LEFT) / (RIGHT - LEFT), 14, group.label)
    below(axes, 0.5, 30, x_label, size=12)
    return markup(figure, f"{y_label} by {x_label}", "; ".join(described))


def score_chart(reference: NDArray[np.floating], scores: NDArray[np.floating], series: int, name: str) -> Markup:
    """Scores (n,) against the reference's (n,), the same range on both axes, and the line of equality."""
    limits = _range(min(reference.min(), scores.min()), max(reference.max(), scores.max()))
    labels = "score in PyTorch FP32", f"score in {name}"
    return _density(reference, scores, series, (limits, limits), (48, 48, 250), labels, (limits, limits))


def difference_chart(reference: NDArray[np.floating], scores: NDArray[np.floating], series: int) -> Markup:
    """The difference of scores (n,) from the reference's (n,), by the reference's score, and the line of no change."""
    difference = scores.astype(np.float64) - reference
    largest = float(np.abs(difference).max()) or 1e-9
    across = _range(reference.min(), reference.max())
    # With an odd number of rows "no change" is the middle of one.
    cells, labels = (48, 25, 160), ("score in PyTorch FP32", "Δ score")
    return _density(reference, difference, series, (across, (-largest, largest)), cells, labels, (across, (0, 0)))


def sample_points(*matrices: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Equally shaped matrices, flattened; more than two million values are sampled, the same of each, with seed 0."""
    size = matrices[0].size
    if size <= MOST_POINTS:
        return [matrix.ravel() for matrix in matrices]
    chosen = np.random.default_rng(0).integers(size, size=MOST_POINTS)
    return [matrix.ravel()[chosen] for matrix in matrices]


def _density(
    x: NDArray[np.floating],
    y: NDArray[np.floating],
    series: int,
    limits: tuple[tuple[float, float], tuple[float, float]],
    cells: tuple[int, int, int],
    labels: tuple[str, str],
    line: tuple[tuple[float, float], tuple[float, float]],
) -> Markup:
    """A 2-D histogram of points (n,), (n,): darker cells hold more, on a logarithmic scale.

    cells: columns, rows, total height; line: x and y of both ends of a guide line.
    """
    columns, rows, height = cells
    figure, axes = canvas(12 + height + _BELOW, LEFT, RIGHT, 12, 12 + height)
    axes.set(xlim=limits[0], ylim=limits[1])
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=(columns, rows), range=limits)  # (columns, rows)
    shades = np.full(counts.shape, -1)
    full = counts > 0
    most = len(_SHADES) - 1
    shades[full] = np.rint(np.log(counts[full]) / math.log(max(counts.max(), 2)) * most).astype(np.int64)
    _y_axis(axes, labels[1], 6 if height > 200 else 5)
    _x_axis(axes, labels[0], 6)
    axes.plot(*line, color=SOFT, linewidth=1, dashes=(4, 3), clip_on=False)
    corners = ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))
    codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
    for shade, opaque in enumerate(_SHADES):
        places = np.argwhere(shades == shade).tolist()
        boxes = [(x_edges[i + across], y_edges[j + up]) for i, j in places for across, up in corners]
        draw(axes, boxes, codes, facecolor=(colour(series), opaque), linewidth=0)
    return markup(figure, f"{labels[1]} against {labels[0]}", f"{len(x):,} pairs, darker cells hold more")


def _x_axis(axes: Axes, label: str, ticks: int) -> None:
    """Vertical lines at the ticks, with their numbers and the label below: 34 units."""
    low, high = axes.get_xlim()
    for tick in _ticks(low, high, ticks):
        place = (tick - low) / (high - low)
        axes.axvline(tick, color=LINE, linewidth=1, clip_on=False, zorder=0)
        # Keep numbers at the edges inside the chart.
        x = axes.get_position().x0 * WIDTH + place * axes.get_position().width * WIDTH
        below(axes, place, 13, number(tick), "right" if x > WIDTH - 16 else "left" if x < 12 else "center")
    below(axes, 0.5, 29, label, size=12)


def _y_axis(axes: Axes, label: str, ticks: int) -> None:
    """Horizontal lines at the ticks, their numbers to the left, the rotated label at the edge."""
    low, high = axes.get_ylim()
    for tick in _ticks(low, high, ticks):
        axes.axhline(tick, color=LINE, linewidth=1, clip_on=False, zorder=0)
        at = (0, (tick - low) / (high - low))
        write(axes, number(tick), at, (-4, -4), ha="right")
    write(axes, label, (0, 0.5), (10 - LEFT, 0), ha="center", va="center", size=12, rotation=90, rotation_mode="anchor")


def _row_of_text(axes: Axes, y: float, label: str, value: str) -> None:
    """A label on the left and a value on the right, y units below the axes' top."""
    write(axes, label, (0, 1), (0, -y), size=13, color=INK)
    write(axes, value, (1, 1), (0, -y), size=12.5, color=INK, ha="right")


def _ticks(low: float, high: float, most: int, *, beyond: bool = False) -> list[float]:
    """Round numbers from `low` to `high`; with `beyond`, also the next one."""
    locator = MaxNLocator(most, steps=[1, 2, 5, 10])
    ticks = [float(tick) for tick in locator.tick_values(low, high if high > low else low + 1)]
    slack = 1e-6 * (high - low)
    return ticks if beyond else [tick for tick in ticks if low - slack <= tick <= high + slack]


def _range(low: np.floating, high: np.floating) -> tuple[float, float]:
    """Limits of an axis; for a single value, from it to 1 above."""
    return float(low), float(high if high > low else low + 1)
