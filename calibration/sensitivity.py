"""The cost of each node alone in INT8: where a quantised graph loses its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._progress import progress_bar
from ..metrics import parity, retrieval_metrics


@dataclass(frozen=True)
class NodeCost:
    """The error against the reference's scores with only this node in INT8."""

    node: str
    delta_rsum: float
    mean_abs: float  # mean |Δ score|
    max_abs: float
    rank_flips: int  # queries of either direction with a different best item


def node_costs(
    nodes: Sequence[str],
    score: Callable[[str], NDArray[np.floating]],
    reference: NDArray[np.floating],
    image_of_caption: NDArray[np.integer],
    progress: bool = False,
) -> list[NodeCost]:
    """The cost of each node, the most harmful first.

    score(node) returns the scores (images, captions) with only that node in INT8; reference: the scores without it, of
    the same shape; image_of_caption (captions,).

    Sorted by mean |Δ score|; ties keep the given order. Not by Δ rsum: one query changes rsum by 100/queries, so that
    on a small held-out set most nodes tie, and gains and losses cancel. The mean covers every pair. A node that makes a
    score NaN or infinite comes first.
    """
    costs = []
    with progress_bar(len(nodes), "sensitivity", "node", progress) as bar:
        for node in nodes:
            costs.append(_cost(node, score(node), reference, image_of_caption))
            bar.update()
    return sorted(costs, key=lambda cost: -cost.mean_abs)


def cost_table(costs: Sequence[NodeCost]) -> str:
    """The costs as a text table, in their order."""
    from tabulate import tabulate

    headers = ["in INT8 alone", "mean abs\nΔ score", "max abs\nΔ score", "Δ rsum", "rank\nflips"]
    rows = [[c.node, f"{c.mean_abs:.1e}", f"{c.max_abs:.1e}", f"{c.delta_rsum:+.2f}", str(c.rank_flips)] for c in costs]
    alignment = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, "simple", disable_numparse=True, colalign=alignment)


def _cost(
    node: str,
    scores: NDArray[np.floating],
    reference: NDArray[np.floating],
    image_of_caption: NDArray[np.integer],
) -> NodeCost:
    if not np.isfinite(scores).all():
        # Such scores rank nothing: the reference's whole rsum is lost.
        lost = -retrieval_metrics(reference, image_of_caption).rsum
        return NodeCost(node, lost, np.inf, np.inf, sum(reference.shape))
    change = parity(scores, reference, image_of_caption)
    return NodeCost(node, change.delta_rsum, change.mean_abs, change.max_abs, change.rank_flips)
