"""Output shared by several commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._files.outputs import is_standard_output
from .._text import json_text, visible

if TYPE_CHECKING:
    from ..manifest import SettingRecord
    from ..metrics import RetrievalMetrics
    from ..model.settings import Setting


def show(text: str, *, err: bool = False) -> None:
    """Print a result on stdout, with control characters, which ids and captions may hold, escaped."""
    click.echo(visible(text, keep="\n"), err=err)


def show_styled(text: str) -> None:
    """As `show`, with unindented lines (headings) in bold and marks coloured."""
    marks = {"✓": click.style("✓", fg="green"), "✗": click.style("✗", fg="red")}
    lines = []
    for line in visible(text, keep="\n").split("\n"):
        heading = line and not line.startswith(" ")
        lines.append(click.style(line, bold=True) if heading else "".join(marks.get(c, c) for c in line))
    click.echo("\n".join(lines))


def show_json(value: Any, *, err: bool = False) -> None:
    """Print a result as JSON."""
    click.echo(json_text(value), err=err)


def settings_text(
    settings: Sequence[Setting | SettingRecord],
    metrics: Mapping[str, Any],
    measured: str | None = None,
    width: int | None = None,
) -> str:
    """A line for each setting: where it came from, its value and why, and the checkpoint's own rsum.

    measured: the same model's rsum and where it was measured, to compare. width: columns to wrap at.
    """
    from tabulate import tabulate

    rows = [[s.name, s.source, f"{s.value}: {s.note}" if s.note else s.value] for s in settings]
    own = metrics.get("best_rsum", metrics.get("rsum"))
    if isinstance(own, int | float) or measured:
        of_file = f"{own:.2f} says the file" if isinstance(own, int | float) else "the file says none"
        rows.append(["rsum", "file", "; ".join(filter(None, (of_file, measured)))])
    taken = sum(max(map(len, column), default=0) + 2 for column in zip(*(row[:2] for row in rows), strict=True))
    return tabulate(
        rows,
        tablefmt="plain",
        disable_numparse=True,
        maxcolwidths=None if width is None else [None, None, max(20, width - taken)],
    )


def log(message: str) -> None:
    """Print progress on stderr: stdout is for results. An unwritable stderr does not stop a job."""
    with suppress(OSError):
        click.echo(visible(message, keep="\n"), err=True)


def is_printed(file: Path | None) -> bool:
    """Whether an output file is standard output: other output then goes to stderr."""
    return file is not None and is_standard_output(file)


def metrics_table(metrics: RetrievalMetrics) -> str:
    """R@K, ranks and rsum in both directions."""
    from tabulate import tabulate

    rows = [
        [name, *(f"{v:.2f}" for v in (d.r1, d.r5, d.r10)), f"{d.median_rank:g}", f"{d.mean_rank:.1f}"]
        for name, d in (("image → text", metrics.image_to_text), ("text → image", metrics.text_to_image))
    ]
    table = tabulate(rows, ["", "R@1", "R@5", "R@10", "median rank", "mean rank"], disable_numparse=True)
    return f"{table}\nrsum {metrics.rsum:.2f}"
