"""What each node alone costs in INT8: where the accuracy of a quantised graph goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._progress import progress_bar
from ..metrics import parity, retrieval_metrics


@dataclass(frozen=True)
class NodeCost:
    """One node's error when it alone is in INT8, against the reference's scores."""

    node: str
    delta_rsum: float
    mean_abs: float  # mean |Δ score|
    max_abs: float
    rank_flips: int  # queries of either direction whose best item is another one


def node_costs(
    nodes: Sequence[str],
    score: Callable[[str], NDArray[np.floating]],
    reference: NDArray[np.floating],
    image_of_caption: NDArray[np.integer],
    progress: bool = False,
) -> list[NodeCost]:
    """The cost of each node, the most harmful first.

    score(node) gives the scores (images, captions) with that node alone in INT8; reference: the scores without it,
    of the same shape; image_of_caption (captions,).

    Sorted by mean |Δ score|, nodes that cost the same in the order given. Not by Δ rsum: one query moves rsum by
    100/queries, so that on a small held-out set most nodes share a step or none, and steps up and down cancel. The
    mean is over every pair and hides nothing. A node that makes a score NaN or infinite is the most harmful of all.
    """
    costs = []
    with progress_bar(len(nodes), "sensitivity", "node", progress) as bar:
        for node in nodes:
            costs.append(_cost(node, score(node), reference, image_of_caption))
            bar.update()
    return sorted(costs, key=lambda cost: -cost.mean_abs)


def cost_table(costs: Sequence[NodeCost]) -> str:
    """The costs as text, in their order."""
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
        # Nothing can be ranked by such scores: all that the reference finds is lost.
        lost = -retrieval_metrics(reference, image_of_caption).rsum
        return NodeCost(node, lost, np.inf, np.inf, sum(reference.shape))
    found = parity(scores, reference, image_of_caption)
    return NodeCost(node, found.delta_rsum, found.mean_abs, found.max_abs, found.rank_flips)
