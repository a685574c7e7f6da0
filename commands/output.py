"""What several commands print."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._files.outputs import is_standard_output

if TYPE_CHECKING:
    from ..metrics import RetrievalMetrics


def log(message: str) -> None:
    """Progress goes to stderr: stdout is for results. A job goes on where nobody can be told how it does."""
    with suppress(OSError):
        click.echo(message, err=True)


def is_printed(file: Path | None) -> bool:
    """Whether an output file is standard output: what is printed besides then goes to stderr."""
    return file is not None and is_standard_output(file)


def metrics_table(metrics: RetrievalMetrics) -> str:
    """R@K, ranks and rsum, both ways."""
    from tabulate import tabulate

    rows = [
        [name, *(f"{v:.2f}" for v in (d.r1, d.r5, d.r10)), f"{d.median_rank:g}", f"{d.mean_rank:.1f}"]
        for name, d in (("image → text", metrics.image_to_text), ("text → image", metrics.text_to_image))
    ]
    table = tabulate(rows, ["", "R@1", "R@5", "R@10", "median rank", "mean rank"], disable_numparse=True)
    return f"{table}\nrsum {metrics.rsum:.2f}"
