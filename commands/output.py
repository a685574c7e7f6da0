"""What several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..metrics import RetrievalMetrics


def log(message: str) -> None:
    """Progress goes to stderr: stdout is for results."""
    click.echo(message, err=True)


def metrics_table(metrics: RetrievalMetrics) -> str:
    """R@K, ranks and rsum, both ways."""
    from tabulate import tabulate

    rows = [
        [name, *(f"{v:.2f}" for v in (d.r1, d.r5, d.r10)), f"{d.median_rank:g}", f"{d.mean_rank:.1f}"]
        for name, d in (("image → text", metrics.image_to_text), ("text → image", metrics.text_to_image))
    ]
    table = tabulate(rows, ["", "R@1", "R@5", "R@10", "median rank", "mean rank"], disable_numparse=True)
    return f"{table}\nrsum {metrics.rsum:.2f}"
