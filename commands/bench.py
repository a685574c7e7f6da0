"""`caan bench`: speed and R@K of a bundle."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .output import is_printed, log, show

if TYPE_CHECKING:
    from ..report.source import Source


@click.command(epilog=options.EXIT_CODES)
@options.bundle
@options.data
@options.split
@options.checkpoint
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True, help="Measured after a warm-up.")
@options.threads
@options.trust_engines
@click.option("--synthetic", is_flag=True, help="No bundle: an untrained CAAN of the paper's size; speed alone.")
@click.option("--json", "json_file", type=options.PATH, metavar="FILE", help="Write every number there too.")
@click.option("--report", type=options.PATH, metavar="FILE.html", help="Write a page of charts and pictures.")
@click.option("--pictures", type=options.PATH, metavar="DIR", help="For --report.  [default: DATA/thumbnails]")
@click.option("--grid", type=options.grid, metavar="ROWSxCOLUMNS", help="For --report: regions are a grid's cells.")
@click.option("--retrieval", is_flag=True, help="Also galleries, search_many and batching: some minutes more.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
def bench(
    bundle: Path | None,
    data: Path | None,
    split: str,
    checkpoint: Path | None,
    rounds: int,
    threads: int | None,
    trust_engines: bool,
    synthetic: bool,
    json_file: Path | None,
    report: Path | None,
    pictures: Path | None,
    grid: tuple[int, int] | None,
    retrieval: bool,
    markdown: bool,
) -> None:
    """Measure a bundle's speed, and with --data its R@K, against PyTorch.

    BUNDLE defaults to the only *.caan of the current folder.
    """
    from .._files import atomic_file
    from .._machine import describe_machine
    from .._text import json_text
    from ..bench.run import run_bench
    from ..bench.synthetic import synthetic_bundle
    from ..bench.table import bench_table
    from ..bundle import find_bundle, open_bundle

    if synthetic and (bundle or data or checkpoint):
        raise click.UsageError("--synthetic makes its own bundle; it takes no BUNDLE, --data or --checkpoint")
    if (pictures or grid) and (report is None or data is None):
        raise click.UsageError("--pictures and --grid are for the pictures of a data set: add --report and --data")
    with ExitStack() as stack:
        # Both targets are opened before the minutes of measuring, in case they can't be written.
        report_target = stack.enter_context(atomic_file(report)) if report is not None else None
        source = _source(data, split, pictures, grid) if report is not None else None
        found = stack.enter_context(synthetic_bundle(log)) if synthetic else find_bundle(bundle, Path())
        with atomic_file(json_file) if json_file is not None else nullcontext() as json_target:
            result = run_bench(
                found,
                data=data,
                split=split,
                checkpoint=checkpoint,
                rounds=rounds,
                threads=threads,
                trust_engines=trust_engines,
                retrieval=retrieval,
                progress=log,
            )
            if json_target is not None:
                json_target.write_text(json_text(result.as_dict()) + "\n", encoding="ascii")
        if report_target is not None:
            from ..report.page import bench_page

            log(f"writing {report}")
            report_target.write_text(bench_page(result, open_bundle(found), source), encoding="utf-8")
    # What took minutes is in its files before anything is printed, which may fail.
    aside = is_printed(json_file) or is_printed(report)
    show(describe_machine(), err=aside)
    show(bench_table(result, "github" if markdown else "simple"), err=aside)
    if data is None:
        show("\nR@K and the differences from PyTorch need a data set: add --data DIR", err=aside)


def _source(data: Path | None, split: str, pictures: Path | None, grid: tuple[int, int] | None) -> Source | None:
    """What the report shows of the data set; fails now, not after the minutes of measuring, if it can't."""
    from ..report.source import open_source
    from ..report.template import check_installed

    check_installed("--report")
    return None if data is None else open_source(data, split, pictures, grid)
