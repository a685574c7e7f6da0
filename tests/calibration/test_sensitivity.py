"""The cost of each node in INT8: numbers, order, table."""

import numpy as np
import pytest

from caan.calibration.sensitivity import NodeCost, cost_table, node_costs
from caan.metrics import parity

TRUTH = np.arange(8) // 2
REFERENCE = np.where(np.arange(4)[:, None] == TRUTH, 1.0, 0.5)


def costs_of(scores):
    return node_costs(list(scores), scores.__getitem__, REFERENCE, TRUTH)


def test_a_cost_is_the_parity_of_the_node_s_scores():
    noisy = REFERENCE + np.random.default_rng(0).normal(0, 0.5, REFERENCE.shape)
    (cost,) = costs_of({"scorer/H": noisy})
    expected = parity(noisy, REFERENCE, TRUTH)
    assert cost.rank_flips > 0 and cost.delta_rsum < 0
    assert cost == NodeCost("scorer/H", expected.delta_rsum, expected.mean_abs, expected.max_abs, expected.rank_flips)


def test_the_largest_mean_error_comes_first_even_where_rsum_sees_nothing():
    lone = REFERENCE.copy()
    lone[0, 7] = 2.0  # changes ranks, but in only one pair
    scores = {"small": REFERENCE + 0.01, "large": REFERENCE + 0.25, "none": REFERENCE, "lone": lone}
    costs = costs_of(scores)
    assert [cost.node for cost in costs] == ["large", "lone", "small", "none"]
    assert costs[0].delta_rsum == 0 and costs[0].rank_flips == 0
    assert costs[1].rank_flips > 0


def test_nodes_that_cost_the_same_keep_their_order():
    scores = {"b": REFERENCE + 0.25, "c": REFERENCE + 0.5, "a": REFERENCE - 0.25}
    assert [cost.node for cost in costs_of(scores)] == ["c", "b", "a"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_node_that_ruins_a_score_is_the_most_harmful(value):
    ruined = REFERENCE.copy()
    ruined[1, 1] = value
    costs = costs_of({"bad": REFERENCE + 100, "ruined": ruined})
    assert [cost.node for cost in costs] == ["ruined", "bad"]
    assert costs[0] == NodeCost("ruined", -600.0, np.inf, np.inf, 12)


def test_every_node_is_scored_once():
    calls = []

    def score(node):
        calls.append(node)
        return REFERENCE

    node_costs(["x", "y", "z"], score, REFERENCE, TRUTH)
    assert calls == ["x", "y", "z"]


def test_the_table_shows_the_costs_in_their_order():
    costs = [NodeCost("scorer/Su", -1.25, 0.0123, 0.5, 7), NodeCost("scorer/H", 0.0, 0.00045, 0.01, 0)]
    lines = cost_table(costs).splitlines()
    assert "Δ rsum" in "".join(lines[:2]) and "mean abs" in lines[0]
    assert [line.split() for line in lines[-2:]] == [
        ["scorer/Su", "1.2e-02", "5.0e-01", "-1.25", "7"],
        ["scorer/H", "4.5e-04", "1.0e-02", "+0.00", "0"],
    ]


def test_the_table_of_no_node_has_its_headers_alone():
    assert "in INT8 alone" in cost_table([])
