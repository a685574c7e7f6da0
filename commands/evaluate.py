"""`caan eval`: R@K of a bundle on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .output import log, metrics_table, show, show_json
from .tables import check_suffix, write_scores

if TYPE_CHECKING:
    from ..metrics import RetrievalMetrics
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
@click.option("--folds", is_flag=True, help="MS-COCO's 1K protocol: five folds, averaged. Only their pairs are scored.")
@click.option("--all-pairs", is_flag=True, help="With --folds: also score all pairs, MS-COCO's 5K beside its 1K.")
@click.option(
    "--export", type=options.PATH, metavar="FILE", help="Also write the scores of all pairs: .npy, or .csv as rows."
)
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
    all_pairs: bool,
    export: Path | None,
    as_json: bool,
) -> None:
    """R@1/5/10, median and mean rank of BUNDLE (with --backend torch: of a checkpoint) on a data set."""
    from ..accuracy.workload import data_workload
    from ..bundle import find_bundle
    from ..metrics import five_fold_metrics, five_folds, mean_metrics, retrieval_metrics
    from ..runtime import Retriever

    if all_pairs and not folds:
        raise click.UsageError("--all-pairs adds to --folds; without --folds all pairs are scored anyway")
    if export is not None:
        check_suffix(export)
    dataset = data_workload(data, split, limit, Path(tokens) if tokens is not None else None)
    truth = dataset.image_of_caption
    assert truth is not None  # only random inputs have none
    parts = five_folds(len(dataset.features), truth) if folds else []
    log(f"{dataset.description}: {dataset.layout}")
    path = find_bundle(bundle, Path())
    retriever = Retriever.open(path, backend, precision, device=device, threads=threads, trust_engines=trust_engines)
    results: dict[str, RetrievalMetrics] = {}
    if folds and not all_pairs and export is None:
        scored = dataset.fold_scores(retriever, parts)
        results["folds"] = mean_metrics([retrieval_metrics(fold, own_truth) for fold, own_truth in scored])
    else:
        scores = dataset.scores(retriever, warn=True)
        if export is not None:
            write_scores(export, scores, dataset.ids)
        if folds:
            results["folds"] = five_fold_metrics(scores, truth)
        if all_pairs or not folds:
            results["all"] = retrieval_metrics(scores, truth)
    _show(results, as_json)


def _show(results: dict[str, RetrievalMetrics], as_json: bool) -> None:
    """One result alone, or both with their names."""
    if as_json:
        content = {name: metrics.as_dict() for name, metrics in results.items()}
        show_json(content if len(content) > 1 else next(iter(content.values())))
        return
    names = {"folds": "five folds, averaged\n", "all": "all pairs\n"} if len(results) > 1 else {}
    show("\n\n".join(names.get(name, "") + metrics_table(metrics) for name, metrics in results.items()))
