"""A run's numbers as charts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from ..bench.recall import RecallCurve
from ..bench.rows import Row
from .charts import (
    MOST_POINTS,
    Bar,
    Group,
    Strip,
    bar_chart,
    difference_chart,
    group_chart,
    sample_points,
    score_chart,
    strip_chart,
)
from .recall import recall_by_candidates, recall_by_time


@dataclass(frozen=True)
class Scatter:
    """One row's scores against PyTorch's."""

    name: str
    scores: Markup
    differences: Markup
    points: str  # how many pairs are plotted


@dataclass(frozen=True)
class Charts:
    """All charts of a page. The quality charts are empty without a data set."""

    pairs: Markup
    text_query: Markup | None
    image_query: Markup | None
    recall: list[Markup]
    scatters: list[Scatter]
    sketches: list[Markup]  # recall by candidates, and by time


def draw_charts(
    rows: Sequence[tuple[Row, int, float | None]], reference: Row | None, sketches: Sequence[RecallCurve] = ()
) -> Charts:
    """rows: those that ran, each with its colour number and its speed as a multiple of PyTorch's."""
    return Charts(
        bar_chart([_speed(*row) for row in rows], "image-caption pairs scored per second"),
        _latency(rows, "text_query", "ms for one caption over 1,000 images"),
        _latency(rows, "image_query", "ms for one image over 5,000 captions"),
        _recall(rows),
        [] if reference is None else [s for row, series, _ in rows if (s := _scatter(row, series, reference))],
        [recall_by_candidates(sketches), recall_by_time(sketches)] if sketches else [],
    )


def _speed(row: Row, series: int, ratio: float | None) -> Bar:
    speed = row.pairs_per_second or 0.0
    factor = "" if ratio is None else f" · {ratio:.2g} ×" if ratio < 9.5 else f" · {ratio:.0f} ×"
    return Bar(row.name, speed, series, f"{speed:,.0f}/s{factor}")


def _latency(rows: Sequence[tuple[Row, int, float | None]], key: str, axis: str) -> Markup | None:
    strips = []
    for row, series, _ in rows:
        percentiles = row.text_query if key == "text_query" else row.image_query
        if percentiles is not None:
            samples = np.concatenate([measured[key] for measured in row.rounds]).tolist()
            strips.append(Strip(row.name, series, samples, percentiles))
    return strip_chart(strips, axis) if strips else None


def _recall(rows: Sequence[tuple[Row, int, float | None]]) -> list[Markup]:
    """One chart per direction."""
    charts = []
    for direction, label in (("image_to_text", "image → text"), ("text_to_image", "text → image")):
        measured = [(row.name, series, getattr(row.metrics, direction)) for row, series, _ in rows if row.metrics]
        if measured:
            groups = [
                Group(f"R@{cut}", [(name, series, getattr(metrics, f"r{cut}")) for name, series, metrics in measured])
                for cut in (1, 5, 10)
            ]
            charts.append(group_chart(groups, "% of queries", f"found among the first K, {label}"))
    return charts


def _scatter(row: Row, series: int, reference: Row) -> Scatter | None:
    if row is reference or row.scores is None or reference.scores is None:
        return None
    theirs, ours = sample_points(reference.scores, row.scores)
    points = f"all {row.scores.size:,} pairs"
    if row.scores.size > MOST_POINTS:
        points = f"{MOST_POINTS:,} of {row.scores.size:,} pairs, drawn with seed 0"
    return Scatter(
        row.name, score_chart(theirs, ours, series, row.name), difference_chart(theirs, ours, series), points
    )
