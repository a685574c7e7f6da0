"""`caan bench`: speed and R@K of a bundle."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import click

from . import options
from .output import log


@click.command(epilog=options.EXIT_CODES)
@options.bundle
@options.data
@options.split
@options.checkpoint
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True, help="Measured after a warm-up.")
@options.threads
@click.option("--synthetic", is_flag=True, help="No bundle: an untrained CAAN of the paper's size; speed alone.")
@click.option("--json", "json_file", type=options.PATH, metavar="FILE", help="Write every number there too.")
@click.option("--markdown", is_flag=True, help="Print Markdown tables.")
def bench(
    bundle: Path | None,
    data: Path | None,
    split: str,
    checkpoint: Path | None,
    rounds: int,
    threads: int | None,
    synthetic: bool,
    json_file: Path | None,
    markdown: bool,
) -> None:
    """Measure a bundle's speed, and with --data its R@K, against PyTorch.

    BUNDLE defaults to the only *.caan of the current folder.
    """
    from .._files import atomic_file
    from .._machine import describe_machine
    from ..bench.run import run_bench
    from ..bench.synthetic import synthetic_bundle
    from ..bench.table import bench_table
    from ..bundle import find_bundle

    if synthetic and (bundle or data or checkpoint):
        raise click.UsageError("--synthetic makes its own bundle; it takes no BUNDLE, --data or --checkpoint")
    with ExitStack() as stack:
        # Opened before the minutes of measuring, in case it can't be written.
        json_target = stack.enter_context(atomic_file(json_file)) if json_file is not None else None
        found = stack.enter_context(synthetic_bundle(log)) if synthetic else find_bundle(bundle, Path())
        result = run_bench(
            found, data=data, split=split, checkpoint=checkpoint, rounds=rounds, threads=threads, progress=log
        )
        click.echo(describe_machine())
        click.echo(bench_table(result, "github" if markdown else "simple"))
        if data is None:
            click.echo("\nR@K and the differences from PyTorch need a data set: add --data DIR")
        if json_target is not None:
            json_target.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")
