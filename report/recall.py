"""Recall against candidates and against time: a line per direction, named beside it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from .._files import atomic_file
from ..bench.recall import RecallCurve, RecallPoint
from ..errors import needs
from .svg import INK, LEFT, LINE, WIDTH, below, canvas, colour, draw, markup, number, write

with needs("plot", "a report's charts"):
    from matplotlib.axes import Axes
    from matplotlib.path import Path as Shape

# Missed items on a logarithmic scale: 90, 99 and 99.9 % are equally far apart. Less than _LEAST, which some hundred
# queries can't tell from nothing, is drawn as nothing.
_TICKS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998)
_LEAST = 0.001
_TOP, _BOTTOM, _RIGHT = 14, 220, WIDTH - 18
_SERIES = (2, 3)
# A file has no style sheet but its own; these are the pages' colours.
_FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif\""
_COLOURS = (
    "svg { --card: #fff; --ink: #1c2126; --soft: #57606a; --line: #dcdcd5; --s2: #0b7f95; --s3: #d9780a }"
    " @media (prefers-color-scheme: dark) { svg { --card: #1c2025; --ink: #e7e9eb; --soft: #a0a9b2; --line: #353b42;"
    " --s2: #35bcd4; --s3: #ffab4a } }"
    " .card { fill: var(--card); stroke: var(--line) } .title { fill: var(--ink); font-size: 15px; font-weight: 600 }"
)


def recall_by_candidates(curves: Sequence[RecallCurve]) -> Markup:
    """Recall of the exact search's best ten, by the number of candidates."""
    return _chart(curves, "candidates, each scored exactly", lambda point: float(point.candidates), exact=False)


def recall_by_time(curves: Sequence[RecallCurve]) -> Markup:
    """Recall of the exact search's best ten, by the milliseconds of a query; exact search is the dot on top."""
    return _chart(curves, "ms per query", lambda point: point.milliseconds, exact=True)


def recall_picture(curves: Sequence[RecallCurve]) -> str:
    """Both charts side by side as one SVG file, light or dark as the reader's system."""
    inner, height = 20, 300
    parts = []
    for place, (title, chart) in enumerate(
        (("Recall by candidates", recall_by_candidates(curves)), ("Recall by time", recall_by_time(curves)))
    ):
        x = inner + place * (WIDTH + 2 * inner)
        parts.append(f'<text x="{x + LEFT}" y="30" class="title">{title}</text>')
        parts.append(str(chart).replace("<svg ", f'<svg x="{x}" y="38" width="{WIDTH}" height="{_BOTTOM + 38}" ', 1))
    width = 2 * (WIDTH + 2 * inner)
    described = "; ".join(f"{curve.direction} among {curve.items:,} items" for curve in curves)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {_FONT}>'
        f"<title>Recall of the exact search, by candidates and by milliseconds: {described}</title>"
        f"<style>{_COLOURS}</style>"
        f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="10" class="card"/>{"".join(parts)}</svg>\n'
    )


def _chart(curves: Sequence[RecallCurve], label: str, place: Callable[[RecallPoint], float], *, exact: bool) -> Markup:
    figure, axes = canvas(_BOTTOM + 38, LEFT, _RIGHT, _TOP, _BOTTOM)
    lines = [[(place(point), _height(point.recall)) for point in curve.points] for curve in curves]
    across = [x for line in lines for x, _ in line] + [curve.exact_milliseconds for curve in curves if exact]
    lowest = min(y for line in lines for _, y in line)
    shown = [tick for tick in _TICKS if _height(tick) >= lowest]
    bottom = _height(max((tick for tick in _TICKS if _height(tick) <= lowest), default=0))
    left = 8 if exact else 1.15  # room for a name
    axes.set(xlim=(min(across) / left, max(across) * 1.15), ylim=(bottom, _height(1)), xscale="log")
    _percent_axis(axes, [*shown, 1.0])
    _log_axis(axes, label)
    described = []
    for curve, line, series in zip(curves, lines, _SERIES, strict=False):
        axes.plot(*zip(*line, strict=True), linewidth=2, color=colour(series), clip_on=False)
        _dots(axes, line, series, 7)
        if exact:
            _dots(axes, [(curve.exact_milliseconds, _height(1))], series, 11)
        _name(axes, curve, line, series, first=curve is curves[0])
        points = ", ".join(f"{100 * p.recall:.1f} % at {number(place(p))}" for p in curve.points)
        ending = f"; exact search {number(curve.exact_milliseconds)} ms" if exact else ""
        described.append(f"{curve.direction}, {curve.items:,} items: {points}{ending}")
    if exact:
        x = float(np.mean([_share(axes, curve.exact_milliseconds) for curve in curves]))
        write(axes, "exact search", (min(x, 0.86), 1.0), (0, -20), ha="center", size=12, color=INK)
    return markup(figure, f"recall by {label}", "; ".join(described))


def _dots(axes: Axes, places: Sequence[tuple[float, float]], series: int, size: float) -> None:
    # Some browsers don't draw zero-length lines.
    ends = [(x * longer, y) for x, y in places for longer in (1.0, 1.001)]
    draw(axes, ends, [Shape.MOVETO, Shape.LINETO], edgecolor=colour(series), linewidth=size)


def _name(axes: Axes, curve: RecallCurve, line: Sequence[tuple[float, float]], series: int, *, first: bool) -> None:
    """The direction beside its line: left of the upper line's middle, right of the lower's."""
    x, y = line[len(line) // 2]
    low, high = axes.get_ylim()
    at, side = (_share(axes, x), (y - low) / (high - low)), -8 if first else 8
    look = {"color": colour(series), "size": 12.5, "ha": "right" if first else "left", "weight": "bold"}
    write(axes, curve.direction, at, (side, 2 if first else -12), **look)


def _percent_axis(axes: Axes, ticks: Sequence[float]) -> None:
    """Horizontal lines at shares of the best ten, with their numbers."""
    low, high = axes.get_ylim()
    for tick in ticks:
        axes.axhline(_height(tick), color=LINE, linewidth=1, clip_on=False, zorder=0)
        text = "all" if tick == 1 else f"{100 * tick:g}"
        write(axes, text, (0, (_height(tick) - low) / (high - low)), (-4, -4), ha="right")
    look = {"ha": "center", "va": "center", "size": 12, "rotation": 90, "rotation_mode": "anchor"}
    write(axes, "% of the exact best ten", (0, 0.5), (10 - LEFT, 0), **look)


def _log_axis(axes: Axes, label: str) -> None:
    """Numbers at powers of ten, and at 2 and 5 times them if there is room."""
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    steps = (1, 2, 5) if math.log10(high / low) < 2 else (1,)
    for tick in (step * 10.0**power for power in powers for step in steps):
        if low <= tick <= high:
            below(axes, _share(axes, tick), 14, number(tick))
            axes.axvline(tick, color=LINE, linewidth=1, clip_on=False, zorder=0)
    below(axes, 0.5, 31, label, size=12)


def _share(axes: Axes, x: float) -> float:
    """Where x lies in the axes' width, 0..1."""
    low, high = axes.get_xlim()
    return math.log(x / low) / math.log(high / low)


def _height(recall: float) -> float:
    return -math.log10(max(1 - recall, _LEAST))


def _write_picture(record: Path, picture: Path) -> None:
    """The README's picture from a record of the large bench: the curves of its largest galleries."""
    steps = json.loads(record.read_text(encoding="utf-8"))["steps"]
    largest = max((name for name in steps if name.startswith("recall ")), key=lambda name: int(name.split()[1]))
    curves = [RecallCurve.from_dict(curve) for curve in steps[largest]["curves"]]
    with atomic_file(picture) as temporary:
        temporary.write_text(recall_picture(curves), encoding="utf-8")


if __name__ == "__main__":  # python -m caan.report.recall docs/benchmarks/DATE-cpu-large.json docs/recall.svg
    _write_picture(Path(sys.argv[1]), Path(sys.argv[2]))
