"""Charts place values correctly, inside the frame, with both axes labelled."""

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
    _ticks,
    bar_chart,
    difference_chart,
    group_chart,
    sample_points,
    score_chart,
    strip_chart,
)
from caan.report.svg import WIDTH

VALUES = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-9)
BARS = [Bar("a <b> $x$", 100, 0, "100/s"), Bar("c", 25, 1, "25/s")]
STRIP = Strip("row", 2, [0.01, 0.02, 0.04], {"p50": 0.02, "p95": 0.04, "p99": 0.04})
GROUP = Group("R@1", [("a", 0, 50.0), ("b", 1, 100.0), ("c", 2, 0.0)])


@given(VALUES, VALUES)
def test_ticks_are_few_and_within_the_scale(first, second):
    low, high = min(first, second), max(first, second)
    if high - low < 1e-6 * max(abs(low), abs(high)):
        return  # practically one value
    ticks, slack = _ticks(low, high, 4), 1e-5 * ((high - low) or 1)
    assert 1 <= len(ticks) <= 6
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@given(st.floats(1e-9, 1e9))
def test_a_scale_from_zero_ends_with_a_tick_that_holds_its_values(high):
    ticks = _ticks(0, high, 4, beyond=True)
    assert ticks[0] == 0 and high <= ticks[-1] * (1 + 1e-9) and ticks[-1] <= 3 * high


def texts(chart):
    return [element.text for element in ElementTree.fromstring(chart).iter("text")]


def boxes(chart, series):
    """(left, top, right, bottom) of every closed shape in a row's colour."""
    result = []
    for path in ElementTree.fromstring(chart).iter("path"):
        if f"fill: var(--s{series})" in path.attrib["style"]:
            for part in path.attrib["d"].split("z"):
                numbers = [float(number) for number in re.findall(r"-?[\d.]+", part)]
                if numbers:
                    result.append((min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])))
    return result


def test_bars_are_as_long_as_their_values():
    chart = bar_chart(BARS, "pairs per second")
    (long,), (short,) = boxes(chart, 0), boxes(chart, 1)
    assert long[2] - long[0] == pytest.approx(4 * (short[2] - short[0]), rel=1e-2) and long[2] <= WIDTH
    assert {"a <b> $x$", "c", "100/s", "25/s", "pairs per second", "0", "100"} <= set(texts(chart))


def test_every_sample_has_a_dot_in_milliseconds():
    chart = strip_chart([STRIP], "ms per query")
    (dots,) = (path for path in ElementTree.fromstring(chart).iter("path") if "var(--s2)" in path.attrib["style"])
    assert "stroke-linecap: round" in dots.attrib["style"] and "stroke-opacity: var(--dots)" in dots.attrib["style"]
    places = [float(x) for x in re.findall(r"M ([\d.]+) ", dots.attrib["d"])]
    assert len(places) == 3
    assert places[2] - places[0] == pytest.approx(3 * (places[1] - places[0]), rel=1e-2)
    assert {"20 · 40 · 40", "40", "ms per query"} <= set(texts(chart))


def test_recall_bars_stand_on_one_line():
    chart = group_chart([GROUP], "% of queries", "direction")
    (half,), (whole,), (none,) = (boxes(chart, series) for series in range(3))
    assert whole[3] - whole[1] == pytest.approx(2 * (half[3] - half[1]), rel=1e-2) and none[3] == none[1]
    assert half[3] == whole[3] == none[3]
    assert {"% of queries", "direction", "R@1"} <= set(texts(chart))


def test_equal_scores_lie_on_the_diagonal():
    scores = np.linspace(-1, 1, 500, dtype=np.float32)
    assert len(boxes(score_chart(scores, scores, 0, "row"), 0)) == 48
    assert len(boxes(score_chart(scores, -scores, 0, "row"), 0)) >= 47
    assert {"score in PyTorch FP32", "score in row"} <= set(texts(score_chart(scores, scores, 0, "row")))


def test_differences_lie_about_zero():
    reference = np.linspace(-1, 1, 500, dtype=np.float32)
    flat = difference_chart(reference, reference, 0)
    assert len({box[1] for box in boxes(flat, 0)}) == 1
    shifted = difference_chart(reference, reference + np.float32(0.25), 0)
    assert boxes(shifted, 0)[0][1] < boxes(flat, 0)[0][1]  # higher up
    assert {"Δ score", "0"} <= set(texts(shifted))


@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda: bar_chart(BARS, "pairs"), ["bars of pairs", "a <b> $x$: 100/s; c: 25/s"]),
        (lambda: strip_chart([STRIP], "ms"), ["samples of ms", "row: p50, p95 and p99 20 · 40 · 40"]),
        (lambda: group_chart([GROUP], "%", "K"), ["% by K", "a, R@1: 50.00 %; b, R@1: 100.00 %; c, R@1: 0.00 %"]),
        (
            lambda: score_chart(np.arange(9.0), np.arange(9.0), 1, "row"),
            ["score in row against score in PyTorch FP32", "9 pairs, darker cells hold more"],
        ),
    ],
)
def test_a_chart_is_part_of_any_page(draw, says):
    """Readable by screen readers, in the page's colours, and without conflicts with other charts."""
    chart = draw()
    assert chart == draw()
    root = ElementTree.fromstring(chart)
    assert root.attrib["role"] == "img" and [element.text for element in root[:2]] == says
    assert {element.tag for element in root.iter()} == {"svg", "title", "desc", "path", "text"}
    for element in root.iter():
        assert set(element.attrib) <= {"viewBox", "role", "d", "x", "y", "style", "transform"}
        assert "#" not in element.get("style", "") and "font-family" not in element.get("style", "")


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_scores_of_one_value_can_be_drawn(value):
    same = np.full(9, value, np.float32)
    for chart in (score_chart(same, same, 0, "row"), difference_chart(same, same, 0)):
        assert len(boxes(chart, 0)) == 1 and "nan" not in chart


def test_many_pairs_are_sampled_together_and_the_same_each_time():
    first = np.arange(MOST_POINTS + 1000, dtype=np.float32).reshape(1000, -1)
    once, twice = sample_points(first, 2 * first), sample_points(first, 2 * first)
    assert len(once[0]) == MOST_POINTS
    assert np.array_equal(2 * once[0], once[1]) and np.array_equal(once[0], twice[0])
