"""`caan eval`: R@K of a bundle on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .output import metrics_table, show, show_json
from .tables import check_suffix, write_scores

if TYPE_CHECKING:
    from ..runtime.choices import BackendName, Device, Precision


@click.command("eval", epilog=options.EXIT_CODES)
@options.bundle
@click.option("--data", type=options.PATH, metavar="DIR", required=True, help="A data set in SCAN's format.")
@options.split
@options.tokens
@options.limit
@options.backend
@options.precision
@options.device
@options.threads
@options.trust_engines
@click.option("--folds", is_flag=True, help="MS-COCO's 1K protocol: five folds, averaged.")
@click.option("--export", type=options.PATH, metavar="FILE", help="Also write the scores there: .npy, or .csv as rows.")
@options.as_json
def evaluate(
    bundle: Path | None,
    data: Path,
    split: str,
    tokens: str | None,
    limit: int | None,
    backend: BackendName,
    precision: Precision,
    device: Device,
    threads: int | None,
    trust_engines: bool,
    folds: bool,
    export: Path | None,
    as_json: bool,
) -> None:
    """R@1/5/10, median and mean rank of BUNDLE (with --backend torch: of a checkpoint) on a data set."""
    from ..accuracy.workload import data_workload
    from ..bundle import find_bundle
    from ..metrics import five_fold_metrics, retrieval_metrics
    from ..runtime import Retriever

    if export is not None:
        check_suffix(export)
    dataset = data_workload(data, split, limit, Path(tokens) if tokens is not None else None)
    path = find_bundle(bundle, Path())
    retriever = Retriever.open(path, backend, precision, device=device, threads=threads, trust_engines=trust_engines)
    scores = retriever.score_dataset(dataset.features, dataset.captions, progress=True)
    if export is not None:
        write_scores(export, scores)
    assert dataset.image_of_caption is not None  # only random inputs have none
    metrics = five_fold_metrics(scores) if folds else retrieval_metrics(scores, dataset.image_of_caption)
    if as_json:
        show_json(metrics.as_dict())
    else:
        show(metrics_table(metrics))
