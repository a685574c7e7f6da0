"""`caan train`: data set → checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import CaanError, needs
from . import options
from .output import metrics_table, show


@click.command(epilog=options.EXIT_CODES)
@click.argument("data", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, default="model.pt", show_default=True, metavar="FILE")
@click.option("--restart", is_flag=True, help="Start again, even if FILE exists or its training could resume.")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=32, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=2e-3, show_default=True)
@click.option("--decay-every", type=click.IntRange(min=1), default=4, show_default=True, metavar="EPOCHS")
@click.option("--decay", type=float, default=0.3, show_default=True, help="Factor of the learning rate's step decay.")
@click.option("--embed-dim", type=click.IntRange(min=1), default=96, show_default=True, help="D")
@click.option("--word-dim", type=click.IntRange(min=1), default=64, show_default=True, help="E")
@click.option("--attention-dim", type=click.IntRange(min=1), default=32, show_default=True, help="d")
@click.option("--attention-scale", type=float, default=6.0, show_default=True, help="λ")
@click.option("--tokenizer", default="whitespace", show_default=True, help="whitespace, word-punct or nltk.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Use more for larger models.")
def train(data: Path, output: Path, restart: bool, **values: Any) -> None:
    """Train a CAAN on DATA's splits train and dev (SCAN's format); the epoch with the best rsum on dev is kept.

    The defaults suit the demo world. After Ctrl-C, rerun the same command to resume.
    """
    from .._files import check_file_target
    from ..data.scan import find_split

    # Cheap checks first: importing PyTorch takes seconds.
    check_file_target(output)
    find_split(data, "train")
    with needs("export", "caan train"):
        from ..model.train import TrainOptions
        from ..model.train import train as run_training

    report = run_training(data, output, TrainOptions(**values), restart=restart, progress=True)
    if report.metrics is not None:
        show(metrics_table(report.metrics))
        show(f"{output}: the best of {report.epochs} epochs on dev")
    if report.interrupted:
        raise CaanError(f"stopped after {report.epochs} of {values['epochs']} epochs; rerun the same command to resume")
