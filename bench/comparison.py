"""Compare two bundles of one bench: ratios of alternating rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from .rows import Row
from .run import BenchResult


def compare_bundles(first: BenchResult, second: BenchResult) -> list[dict[str, Any]]:
    """One entry per row that ran in both: the second's pairs/s ÷ the first's (median over rounds), the first's p50 of
    a text query ÷ the second's, and with a data set both rsums."""
    others = {row.name: row for row in second.rows if row.reason is None}
    return [_compare(row, others[row.name]) for row in first.rows if row.reason is None and row.name in others]


def _compare(first: Row, second: Row) -> dict[str, Any]:
    pairs = [b["pairs_per_second"] / a["pairs_per_second"] for a, b in zip(first.rounds, second.rounds, strict=True)]
    queries = first.text_query and second.text_query and first.text_query["p50"] / second.text_query["p50"]
    return {
        "row": first.name,
        "pairs_per_second": float(np.median(pairs)),
        "text_query": queries,
        "rsum": [row.metrics and row.metrics.rsum for row in (first, second)],
    }
