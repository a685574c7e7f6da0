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

_QUICK_IMAGES = 100


@click.command(epilog=options.EXIT_CODES)
@click.argument("bundles", type=options.PATH, nargs=-1, metavar="[BUNDLE [OTHER]]")
@options.data
@options.split
@options.limit
@options.checkpoint
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True, help="Rounds after a warm-up.")
@options.threads
@options.trust_engines
@click.option("--synthetic", is_flag=True, help="No bundle: an untrained CAAN of the paper's size; speed only.")
@click.option("--json", "json_file", type=options.PATH, metavar="FILE", help="Also write every number there.")
@click.option("--report", type=options.PATH, metavar="FILE.html", help="Write a page of charts and pictures.")
@click.option("--pictures", type=options.PATH, metavar="DIR", help="For --report.  [default: DATA/thumbnails]")
@click.option("--grid", type=options.grid, metavar="ROWSxCOLUMNS", help="For --report: regions are a grid's cells.")
@click.option("--quick", is_flag=True, help="A quick look: one round, at most 100 images of the data set.")
@click.option("--only", multiple=True, metavar="ROW", help='Only rows with this name prefix, as "native"; repeatable.')
@click.option("--resume", is_flag=True, help="Resume the same bench after an interruption.")
@click.option("--retrieval", is_flag=True, help="Also galleries, search_many and batching: takes some minutes.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
def bench(
    bundles: tuple[Path, ...],
    data: Path | None,
    split: str,
    limit: int | None,
    checkpoint: Path | None,
    rounds: int,
    threads: int | None,
    trust_engines: bool,
    synthetic: bool,
    json_file: Path | None,
    report: Path | None,
    pictures: Path | None,
    grid: tuple[int, int] | None,
    quick: bool,
    only: tuple[str, ...],
    resume: bool,
    retrieval: bool,
    markdown: bool,
) -> None:
    """Measure a bundle's speed, and with --data its R@K, against PyTorch; with OTHER, compare two bundles.

    BUNDLE defaults to the only *.caan of the current folder.
    """
    from .._files import atomic_file
    from .._machine import describe_machine
    from .._text import json_text
    from ..bench.comparison import compare_bundles
    from ..bench.run import BenchOptions, run_benches
    from ..bench.synthetic import synthetic_bundle
    from ..bench.table import bench_table, comparison_table
    from ..bundle import find_bundle, open_bundle

    if synthetic and (bundles or data or checkpoint):
        raise click.UsageError("--synthetic makes its own bundle; it takes no BUNDLE, --data or --checkpoint")
    if (pictures or grid) and (report is None or data is None):
        raise click.UsageError("--pictures and --grid are for the pictures of a data set: add --report and --data")
    if len(bundles) > 2:
        raise click.UsageError("two bundles are compared, not more")
    if len(bundles) == 2 and (report or checkpoint):
        raise click.UsageError("--report and --checkpoint are for one bundle")
    if quick:
        rounds, limit = 1, limit or _QUICK_IMAGES
    measured = BenchOptions(
        data=data,
        split=split,
        limit=limit,
        checkpoint=checkpoint,
        rounds=rounds,
        threads=threads,
        only=only,
        retrieval=retrieval,
        resume=resume,
        trust_engines=trust_engines,
    )
    with ExitStack() as stack:
        # Open both targets before the minutes of measuring, in case they can't be written.
        report_target = stack.enter_context(atomic_file(report)) if report is not None else None
        source = _source(data, split, pictures, grid) if report is not None else None

        paths = (
            [stack.enter_context(synthetic_bundle(log))]
            if synthetic
            else [find_bundle(b, Path()) for b in bundles or (None,)]
        )
        with atomic_file(json_file) if json_file is not None else nullcontext() as json_target:
            results = run_benches(paths, measured, log)
            content = results[0].as_dict()
            compared = compare_bundles(*results) if len(paths) == 2 else []
            if len(paths) == 2:
                content = {"bundles": [result.as_dict() for result in results], "comparison": compared}
            if json_target is not None:
                json_target.write_text(json_text(content) + "\n", encoding="ascii")
        if report_target is not None:
            from ..report.page import bench_page

            log(f"writing {report}")
            report_target.write_text(bench_page(results[0], open_bundle(paths[0]), source), encoding="utf-8")
    # Write the files before printing, which may fail.
    aside = is_printed(json_file) or is_printed(report)
    show(describe_machine(), err=aside)
    style = "github" if markdown else "simple"
    for path, result in zip(paths, results, strict=True):
        if len(paths) > 1:
            show(f"\n{path}", err=aside)
        show(bench_table(result, style), err=aside)
    if len(paths) == 2:
        show("\n" + comparison_table((str(paths[0]), str(paths[1])), compared, style), err=aside)
    if data is None:
        show("\nR@K and the differences from PyTorch need a data set: add --data DIR", err=aside)


def _source(data: Path | None, split: str, pictures: Path | None, grid: tuple[int, int] | None) -> Source | None:
    """The report's data set; opened early, to fail before the minutes of measuring."""
    from ..report.source import open_source
    from ..report.template import check_installed

    check_installed("--report", charts=True)
    return None if data is None else open_source(data, split, pictures, grid)
