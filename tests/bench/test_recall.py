"""Recall curves: what counts as found, and how times become ratios."""

import pytest

from caan.bench.recall import K, RecallCurve, RecallPoint, recall_curve
from caan.runtime import Hit

ITEMS = 40


class Gallery:
    def __len__(self):
        return ITEMS


class Tied:
    """Item i has the score of its decade: 39 … 30, then 29 … 20; candidates are the n last items, worst first."""

    def __init__(self):
        self.asked = []

    def search(self, query, gallery, k, candidates=None):
        self.asked.append((query, candidates))
        items = range(ITEMS) if candidates is None else range(query, query + candidates)
        hits = [Hit(item, -float(item // 4)) for item in items]
        return sorted(hits, key=lambda hit: -hit.score)[:k]


def test_an_item_as_good_as_the_tenth_is_found():
    # The ten best are items 0 … 7, and two of 8 … 11, which have one score. Candidates 1 … 10 hold nine of twelve.
    curve = recall_curve(Tied(), "text → image", [0, 1, 4], Gallery(), (5, 10, 20, 100))
    assert [point.candidates for point in curve.points] == [10, 20]  # k or more, and fewer than all
    assert curve.points[0].recall == pytest.approx((10 + 10 + 8) / 30)
    assert curve.points[1].recall == pytest.approx((10 + 10 + 8) / 30)
    assert (curve.items, curve.queries, curve.direction) == (ITEMS, 3, "text → image")
    assert curve.exact_milliseconds > 0 and all(point.milliseconds > 0 for point in curve.points)


def test_every_query_is_searched_in_every_way_in_turns():
    retriever = Tied()
    recall_curve(retriever, "", [0, 1], Gallery(), (10, 20))
    ways = [None, 10, 20]
    assert retriever.asked == [(query, way) for query in (0, 0, 1) for way in ways]  # the first one to warm up


def test_the_fewest_candidates_that_reach_a_recall():
    curve = RecallCurve(
        "", 100, 5, 50.0, [RecallPoint(10, 0.8, 1.0), RecallPoint(20, 0.99, 2.0), RecallPoint(50, 1, 5.0)]
    )
    assert curve.reaching(0.99) == curve.points[1] and curve.speedup(0.99) == 25
    assert RecallCurve("", 100, 5, 50.0, curve.points[:1]).speedup(0.99) is None
    assert RecallCurve.from_dict(curve.as_dict()) == curve
    assert K == 10
