"""What several commands print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .._text import json_text, visible

if TYPE_CHECKING:
    from ..metrics import RetrievalMetrics


def show(text: str) -> None:
    """A result, on stdout. What a terminal would obey, as ids and captions may hold it, is escaped."""
    click.echo(visible(text, keep="\n"))


def show_styled(text: str) -> None:
    """As `show`: headings, which are not indented, bold, and marks coloured."""
    marks = {"✓": click.style("✓", fg="green"), "✗": click.style("✗", fg="red")}
    lines = []
    for line in visible(text, keep="\n").split("\n"):
        heading = line and not line.startswith(" ")
        lines.append(click.style(line, bold=True) if heading else "".join(marks.get(c, c) for c in line))
    click.echo("\n".join(lines))


def show_json(value: Any) -> None:
    """A result for machines."""
    click.echo(json_text(value))


def log(message: str) -> None:
    """Progress goes to stderr: stdout is for results."""
    click.echo(visible(message, keep="\n"), err=True)


def metrics_table(metrics: RetrievalMetrics) -> str:
    """R@K, ranks and rsum, both ways."""
    from tabulate import tabulate

    rows = [
        [name, *(f"{v:.2f}" for v in (d.r1, d.r5, d.r10)), f"{d.median_rank:g}", f"{d.mean_rank:.1f}"]
        for name, d in (("image → text", metrics.image_to_text), ("text → image", metrics.text_to_image))
    ]
    table = tabulate(rows, ["", "R@1", "R@5", "R@10", "median rank", "mean rank"], disable_numparse=True)
    return f"{table}\nrsum {metrics.rsum:.2f}"
