"""Charts put values where they belong, within the frame, with both axes labelled."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.report.charts import (
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
from caan.report.svg import WIDTH, Scale

VALUES = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-9)


@given(VALUES, VALUES)
def test_ticks_are_few_and_within_the_scale(first, second):
    low, high = min(first, second), max(first, second)
    if high - low < 1e-6 * max(abs(low), abs(high)):
        return  # as good as one value
    scale = Scale(low, high, 0, 100)
    slack = 1e-6 * (scale.high - scale.low)
    assert 1 <= len(scale.ticks) <= 6
    assert all(low - slack <= tick <= scale.high + slack for tick in scale.ticks)
    assert scale.at(low) == 0 and scale.at(scale.high) == pytest.approx(100)


@given(st.floats(1e-9, 1e9))
def test_a_scale_from_zero_holds_its_values_and_ends_with_a_tick(high):
    scale = Scale.from_zero(high, 4, 356)
    assert scale.at(0) == 4 and scale.at(high) <= 356 + 1e-6
    assert scale.ticks[0] == 0 and scale.ticks[-1] == pytest.approx(scale.high)


def texts(chart):
    return [element.text for element in ElementTree.fromstring(chart).iter("text")]


def boxes(chart):
    return [element.attrib for element in ElementTree.fromstring(chart).iter("rect")]


def test_bars_are_as_long_as_their_values():
    chart = bar_chart([Bar("a <b>", 100, 0, "100/s"), Bar("c", 25, 1, "25/s")], "pairs per second")
    long, short = (float(box["width"]) for box in boxes(chart))
    assert long == pytest.approx(4 * short, rel=1e-2) and long <= WIDTH
    assert {"a <b>", "c", "100/s", "25/s", "pairs per second", "0", "100"} <= set(texts(chart))


def test_every_sample_has_a_dot_in_milliseconds():
    percentiles = {"p50": 0.02, "p95": 0.04, "p99": 0.04}
    chart = strip_chart([Strip("row", 2, [0.01, 0.02, 0.04], percentiles)], "ms per query")
    dots = re.search(r'class="dots t2" d="([^"]*)"', chart)[1]
    places = [float(x) for x in re.findall(r"M([\d.]+) ", dots)]
    assert len(places) == 3
    assert places[2] - places[0] == pytest.approx(3 * (places[1] - places[0]), rel=1e-2)
    assert {"20 · 40 · 40", "40", "ms per query"} <= set(texts(chart))


def test_recall_bars_stand_on_one_line():
    chart = group_chart([Group("R@1", [("a", 0, 50.0), ("b", 1, 100.0), ("c", 2, 0.0)])], "% of queries", "direction")
    half, whole, none = boxes(chart)
    assert float(whole["height"]) == pytest.approx(2 * float(half["height"])) and float(none["height"]) == 0
    feet = {float(box["y"]) + float(box["height"]) for box in (half, whole, none)}
    assert len(feet) == 1
    assert {"% of queries", "direction", "R@1"} <= set(texts(chart))


def cells(chart):
    return re.findall(r"M([\d.]+) ([\d.]+)h", "".join(re.findall(r'class="s0 l\d" d="([^"]*)"', chart)))


def test_equal_scores_lie_on_the_diagonal():
    scores = np.linspace(-1, 1, 500, dtype=np.float32)
    assert len(cells(score_chart(scores, scores, 0, "row"))) == 48
    assert len(cells(score_chart(scores, -scores, 0, "row"))) >= 47
    assert {"score in PyTorch FP32", "score in row"} <= set(texts(score_chart(scores, scores, 0, "row")))


def test_differences_lie_about_zero():
    reference = np.linspace(-1, 1, 500, dtype=np.float32)
    flat = difference_chart(reference, reference, 0)
    assert len({y for _, y in cells(flat)}) == 1
    shifted = difference_chart(reference, reference + np.float32(0.25), 0)
    assert float(cells(shifted)[0][1]) < float(cells(flat)[0][1])  # higher up
    assert {"Δ score", "0"} <= set(texts(shifted))


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_scores_of_one_value_can_be_drawn(value):
    same = np.full(9, value, np.float32)
    for chart in (score_chart(same, same, 0, "row"), difference_chart(same, same, 0)):
        assert len(cells(chart)) == 1 and "nan" not in chart


def test_many_pairs_are_sampled_together_and_the_same_each_time():
    first = np.arange(MOST_POINTS + 1000, dtype=np.float32).reshape(1000, -1)
    once, twice = sample_points(first, 2 * first), sample_points(first, 2 * first)
    assert len(once[0]) == MOST_POINTS
    assert np.array_equal(2 * once[0], once[1]) and np.array_equal(once[0], twice[0])
