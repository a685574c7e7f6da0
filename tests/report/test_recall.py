"""Recall charts: places in both axes, names beside the lines, and a file that is an SVG by itself."""

import json
import re
from xml.etree import ElementTree

import pytest

from caan.bench.recall import RecallCurve, RecallPoint
from caan.report.recall import _write_picture, recall_by_candidates, recall_by_time, recall_picture

CURVES = [
    RecallCurve("text → image", 1000, 50, 100.0, [RecallPoint(10, 0.9, 1.0), RecallPoint(100, 0.99, 10.0)]),
    RecallCurve("image → text", 5000, 50, 200.0, [RecallPoint(10, 0.5, 2.0), RecallPoint(1000, 1.0, 20.0)]),
]


def shapes(chart, series, width):
    """Points of the paths in a row's colour and of this stroke width."""
    found = []
    for path in ElementTree.fromstring(chart).iter("path"):
        style = path.attrib["style"]
        if f"stroke: var(--s{series})" in style and f"stroke-width: {width};" in f"{style};":
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def test_candidates_and_missed_items_are_on_logarithmic_scales():
    chart = recall_by_candidates(CURVES)
    ((a, b),), ((c, d),) = shapes(chart, 2, 2), shapes(chart, 3, 2)
    assert a[0] == c[0] and d[0] - c[0] == pytest.approx(2 * (b[0] - a[0]), abs=0.3)  # 10 → 1,000 and 10 → 100
    assert a[1] - b[1] > 0 and d[1] == pytest.approx(14)  # everything is on top
    texts = [element.text for element in ElementTree.fromstring(chart).iter("text")]
    assert {"text → image", "image → text", "all", "99", "50", "candidates, each scored exactly"} <= set(texts)
    assert "99.0 % at 100" in chart and "exact search" not in chart


def test_exact_search_is_a_dot_on_top():
    chart = recall_by_time(CURVES)
    (first,), (second,) = shapes(chart, 2, 11), shapes(chart, 3, 11)
    assert first[0][1] == second[0][1] == pytest.approx(14) and first[0][0] < second[0][0] < 360
    assert "exact search" in chart and "exact search 100 ms" in chart


def test_a_curve_of_one_point_and_one_that_misses_nothing_can_be_drawn():
    for curve in (RecallCurve("text → image", 9, 1, 1.0, [RecallPoint(5, share, 1.0)]) for share in (0.0, 0.2, 1.0)):
        assert "text → image" in recall_by_candidates([curve]) and "exact search" in recall_by_time([curve])


def test_the_picture_is_a_file_by_itself(tmp_path):
    curve = [curve.as_dict() for curve in CURVES]
    record = {"steps": {"recall 900": {"curves": []}, "recall 1000": {"curves": curve}, "opening": {}}}
    (tmp_path / "record.json").write_text(json.dumps(record))
    _write_picture(tmp_path / "record.json", tmp_path / "recall.svg")
    text = (tmp_path / "recall.svg").read_text()
    assert text == recall_picture(CURVES)
    ElementTree.fromstring(text)
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= set(re.findall(r"--(\w+): #", text))
    assert "prefers-color-scheme: dark" in text
