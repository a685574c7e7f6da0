"""The commands: parsing, calling, printing, nothing else.

Everything heavy is imported inside the command that needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from . import __version__
from .errors import CaanError, CaanWarning, InputError, needs

if TYPE_CHECKING:
    from .metrics import RetrievalMetrics

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 an accuracy gate failed, 4 something missing here."
)

# Checked where they are used, so that the message says how to mend it.
_PATH = click.Path(path_type=Path)
_bundle = click.argument("bundle", type=_PATH, required=False)
_data = click.option("--data", type=_PATH, metavar="DIR", help="A data set in SCAN's format.")
_split = click.option("--split", default="test", show_default=True, help="The data set's split.")
_backend = click.option("--backend", default="auto", show_default=True, help="onnxruntime, torch or auto.")
_device = click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
_precision = click.option("--precision", default="fp32", show_default=True, help="One that the bundle has.")
_threads = click.option("--threads", type=click.IntRange(min=1), help="Of one scorer call.  [default: all cores]")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_checkpoint = click.option("--checkpoint", type=_PATH, metavar="FILE", help="The bundle's model.pt, if it was moved.")


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="caan")
def caan() -> None:
    """Export a trained CAAN to ONNX and search with it."""


@caan.command(epilog=EXIT_CODES)
@click.argument("checkpoint", type=_PATH)
@click.option("-o", "--output", type=_PATH, metavar="BUNDLE", help="[default: CHECKPOINT's name with .caan, here]")
@_data
@_split
@_overwrite
@click.option("--vocab", type=_PATH, metavar="FILE", help="Vocabulary JSON; for SCAN-family checkpoints.")
@click.option("--tokenizer", default="word-punct", show_default=True, help="Of --vocab: whitespace or word-punct.")
@click.option("--key-map", type=_PATH, metavar="FILE", help="JSON {our name: their name}; for SCAN-family checkpoints.")
@click.option(
    "--attention-scale",
    type=float,
    metavar="λ",
    help="For SCAN-family checkpoints.  [default: the file's, or 1]",
)
def export(
    checkpoint: Path,
    output: Path | None,
    data: Path | None,
    split: str,
    overwrite: bool,
    vocab: Path | None,
    tokenizer: str,
    key_map: Path | None,
    attention_scale: float | None,
) -> None:
    """Turn CHECKPOINT (model.pt) into a bundle of validated ONNX graphs.

    With --data the bundle's R@K is compared with PyTorch's too, and must be the same.
    """
    from ._files import check_target

    target = output or Path(checkpoint.stem + ".caan")
    check_target(target, overwrite=overwrite)
    with needs("export", "caan export"):
        from .export.to_bundle import export_checkpoint
        from .model.checkpoint import ScanOptions, load_checkpoint

    gate = None
    if data is not None:
        from .bench.gate import fp32_gate

        gate = fp32_gate(data, split, checkpoint)
    loaded = load_checkpoint(checkpoint, ScanOptions(vocab, tokenizer, key_map, attention_scale))
    report = export_checkpoint(loaded, checkpoint, target, overwrite=overwrite, gate=gate, progress=_log)
    click.echo(f"{target}: {', '.join(report.bundle.manifest['files'])}")
    worst = max(report.errors.values())
    click.echo(f"ONNX Runtime differs from PyTorch by {worst:.1e} at most, on random inputs")
    if report.gate is not None:
        click.echo(f"on {report.gate['data']}: {report.gate['summary']}")


@caan.command(epilog=EXIT_CODES)
@_bundle
@_data
@_split
@_checkpoint
@click.option("--rounds", type=click.IntRange(min=5), default=5, show_default=True, help="Measured after a warm-up.")
@_threads
@click.option("--synthetic", is_flag=True, help="No bundle: an untrained CAAN of the paper's size; speed alone.")
@click.option("--json", "json_file", type=_PATH, metavar="FILE", help="Write every number there too.")
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
    from ._files import atomic_file
    from ._machine import describe_machine
    from .bench.run import run_bench
    from .bench.synthetic import synthetic_bundle
    from .bench.table import bench_table
    from .bundle import find_bundle

    if synthetic and (bundle or data or checkpoint):
        raise click.UsageError("--synthetic makes its own bundle; it takes no BUNDLE, --data or --checkpoint")
    with ExitStack() as stack:
        # Opened before the minutes of measuring, in case it can't be written.
        json_target = stack.enter_context(atomic_file(json_file)) if json_file is not None else None
        found = stack.enter_context(synthetic_bundle(_log)) if synthetic else find_bundle(bundle, Path())
        result = run_bench(
            found, data=data, split=split, checkpoint=checkpoint, rounds=rounds, threads=threads, progress=_log
        )
        click.echo(describe_machine())
        click.echo(bench_table(result, "github" if markdown else "simple"))
        if data is None:
            click.echo("\nR@K and the differences from PyTorch need a data set: add --data DIR")
        if json_target is not None:
            json_target.write_text(json.dumps(result.as_dict(), indent=2) + "\n", encoding="utf-8")


@caan.command(epilog=EXIT_CODES)
@click.argument("data", type=_PATH)
@click.option("-o", "--output", type=_PATH, default="model.pt", show_default=True, metavar="FILE")
@click.option("--restart", is_flag=True, help="Train anew, even if FILE exists or its training could go on.")
@click.option("--epochs", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=2), default=32, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=2e-3, show_default=True)
@click.option("--decay-every", type=click.IntRange(min=1), default=4, show_default=True, metavar="EPOCHS")
@click.option("--decay", type=float, default=0.3, show_default=True, help="Factor of the learning rate's step decay.")
@click.option("--embed-dim", type=click.IntRange(min=1), default=96, show_default=True, help="D")
@click.option("--word-dim", type=click.IntRange(min=1), default=64, show_default=True, help="E")
@click.option("--attention-dim", type=click.IntRange(min=1), default=32, show_default=True, help="d")
@click.option("--attention-scale", type=float, default=6.0, show_default=True, help="λ")
@click.option("--tokenizer", default="whitespace", show_default=True, help="whitespace or word-punct.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="More suit larger models.")
def train(data: Path, output: Path, restart: bool, **options: Any) -> None:
    """Train a CAAN on DATA's splits train and dev (SCAN's format); the best rsum on dev is kept.

    The defaults suit the demo world. Ctrl-C keeps the last checkpoint; the same command goes on from there.
    """
    with needs("export", "caan train"):
        from .model.train import TrainOptions
        from .model.train import train as run_training

    report = run_training(data, output, TrainOptions(**options), restart=restart, progress=True)
    if report.metrics is not None:
        click.echo(_metrics_table(report.metrics))
        click.echo(f"{output}: the best of {report.epochs} epochs on dev")
    if report.interrupted:
        raise CaanError(f"stopped after {report.epochs} of {options['epochs']} epochs; run the same command to go on")


@caan.command("eval", epilog=EXIT_CODES)
@_bundle
@click.option("--data", type=_PATH, metavar="DIR", required=True, help="A data set in SCAN's format.")
@_split
@_backend
@_precision
@_device
@_threads
@click.option("--folds", is_flag=True, help="MS-COCO's 1K protocol: five folds, averaged.")
@_as_json
def evaluate(
    bundle: Path | None,
    data: Path,
    split: str,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
    folds: bool,
    as_json: bool,
) -> None:
    """R@1/5/10, median and mean rank of BUNDLE (with --backend torch: of a checkpoint) on a data set."""
    from .bundle import find_bundle
    from .data.scan import open_split
    from .metrics import five_fold_metrics, retrieval_metrics
    from .runtime import Retriever

    dataset = open_split(data, split)
    path = find_bundle(bundle, Path())
    retriever = Retriever.open(path, backend, precision, device=device, threads=threads)
    scores = retriever.score_dataset(dataset.features, dataset.captions, progress=True)
    metrics = five_fold_metrics(scores) if folds else retrieval_metrics(scores, dataset.image_of_caption)
    click.echo(json.dumps(metrics.as_dict(), indent=2) if as_json else _metrics_table(metrics))


@caan.command(epilog=EXIT_CODES)
@click.argument("bundle", type=_PATH)
@click.argument("features", type=_PATH)
@click.option("-o", "--output", type=_PATH, metavar="GALLERY", required=True, help="The folder to write.")
@click.option("--ids", type=_PATH, metavar="FILE", help="One name per image, a line each.")
@_overwrite
@_precision
@_device
@_threads
def index(
    bundle: Path,
    features: Path,
    output: Path,
    ids: Path | None,
    overwrite: bool,
    precision: str,
    device: str,
    threads: int | None,
) -> None:
    """Encode the images of FEATURES (.npy: images, regions, F) with BUNDLE into a gallery to search in."""
    from .data.scan import open_features, read_captions
    from .runtime import Retriever
    from .runtime.index import index_images

    array = open_features(features)
    names = None if ids is None else read_captions(ids)
    retriever = Retriever.open(bundle, "onnxruntime", precision, device=device, threads=threads)
    gallery = index_images(retriever, bundle, array, names, output, overwrite=overwrite, progress=True)
    click.echo(f"{output}: {len(gallery)} images")


@caan.command(epilog=EXIT_CODES)
@click.argument("gallery", type=_PATH)
@click.argument("caption")
@click.option("-k", type=click.IntRange(min=1), help="How many hits.  [default: 10, or all there are]")
@click.option("--bundle", type=_PATH, metavar="BUNDLE", help="[default: the one the gallery was made with]")
@_precision
@_device
@_threads
@_as_json
def search(
    gallery: Path,
    caption: str,
    k: int | None,
    bundle: Path | None,
    precision: str,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Rank the images of GALLERY for a typed CAPTION."""
    from .runtime import Gallery, Retriever
    from .runtime.index import bundle_of

    opened = Gallery.open(gallery)
    path = bundle or bundle_of(opened, gallery)
    retriever = Retriever.open(path, "onnxruntime", precision, device=device, threads=threads)
    hits = retriever.search(caption, opened, min(10, len(opened)) if k is None else k)
    if as_json:
        rows = [{"index": h.index, "id": opened.ids and opened.ids[h.index], "score": h.score} for h in hits]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for rank, hit in enumerate(hits, 1):
        click.echo(f"{rank:3d}  {hit.score:8.4f}  {opened.ids[hit.index] if opened.ids else hit.index}")


@caan.command(epilog=EXIT_CODES)
@click.argument("folder", type=_PATH, default="demo")
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """The whole job on a drawn world, in FOLDER: data, training, export, bench, index, search."""
    from .data.demo.world import write_world

    world, model, bundle, gallery = (folder / name for name in ("world", "model.pt", "model.caan", "gallery"))
    _log(f"drawing a world of scenes with captions in {world}")
    write_world(world)
    steps = [
        ["train", world, "-o", model, "--restart"],
        ["export", model, "-o", bundle, "--data", world, "--overwrite"],
        ["bench", bundle, "--data", world],
        ["index", bundle, world / "test_ims.npy", "--ids", world / "test_ids.txt", "-o", gallery, "--overwrite"],
        ["search", gallery, "three birds fly over the sea", "-k", "5"],
    ]
    for step in steps:
        arguments = [str(part) for part in step]
        click.echo(f"\n$ caan {shlex.join(arguments)}")
        caan.main(arguments, prog_name="caan", standalone_mode=False)
    click.echo(f'\nThe pictures are in {world / "thumbnails"}; type a caption of your own: caan search {gallery} "…"')


@caan.command(epilog=EXIT_CODES)
@_as_json
def doctor(as_json: bool) -> None:
    """Say what is installed, which backends work here, and what to install for the others."""
    from .runtime.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(diagnosis.as_dict(), indent=2))
        return
    click.echo(f"caan {__version__}\nmachine  {diagnosis.machine}\nGPU      {', '.join(diagnosis.gpus) or 'none'}\n")
    for name, installed in diagnosis.packages.items():
        click.echo(f"  {name:<20} {installed or '–'}")
    click.echo()
    for check in diagnosis.checks:
        click.echo(f"{'✓' if check.ok else '✗'} {check.name:<27} {check.detail}")
        if check.advice:
            click.echo(f"    {check.advice}")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `caan`."""
    _run(caan, "caan", arguments)


def export_main() -> NoReturn:
    """The command `caan-export`."""
    _run(export, "caan-export", None)


def bench_main() -> NoReturn:
    """The command `caan-bench`."""
    _run(bench, "caan-bench", None)


def _run(command: click.Command, name: str, arguments: Sequence[str] | None) -> NoReturn:
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an id or an arrow may be foreign to the terminal's encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        command.main(arguments, prog_name=name)
    except CaanError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        # A name that is too long, a folder that may not be entered: any path may meet it, wherever it is first used.
        click.echo(f"Error: can't use {str(error.filename)[:80]!r}: {error.strerror}; name another path", err=True)
        sys.exit(InputError.exit_code)
    raise AssertionError("click's main always exits")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, CaanWarning):
        click.echo(f"Warning: {message}", err=True)


def _log(message: str) -> None:
    click.echo(message, err=True)


def _metrics_table(metrics: RetrievalMetrics) -> str:
    from tabulate import tabulate

    rows = [
        [name, *(f"{v:.2f}" for v in (d.r1, d.r5, d.r10)), f"{d.median_rank:g}", f"{d.mean_rank:.1f}"]
        for name, d in (("image → text", metrics.image_to_text), ("text → image", metrics.text_to_image))
    ]
    table = tabulate(rows, ["", "R@1", "R@5", "R@10", "median rank", "mean rank"], disable_numparse=True)
    return f"{table}\nrsum {metrics.rsum:.2f}"
