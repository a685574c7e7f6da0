"""`caan export`: checkpoint → bundle."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError, needs
from . import options
from .output import log, settings_text, show
from .sketch import add_sketch

if TYPE_CHECKING:
    from ..data.scan import ScanSplit
    from ..export.bundle_from_checkpoint import ExportReport


@click.command(epilog=options.EXIT_CODES)
@click.argument("checkpoint", type=options.PATH)
@click.option(
    "-o", "--output", type=options.PATH, metavar="BUNDLE", help="[default: CHECKPOINT's name with .caan, here]"
)
@options.data
@options.split
@options.tokens
@options.limit
@options.overwrite
@click.option("--no-sketch", is_flag=True, help="Do not give the bundle a sketch from --data's split train.")
@options.scan_family
@click.option(
    "--save-checkpoint",
    type=options.PATH,
    metavar="FILE",
    help="Also write the checkpoint there as caan convert does, as the bundle's reference.",
)
def export(
    checkpoint: Path,
    output: Path | None,
    data: Path | None,
    split: str,
    tokens: str | None,
    limit: int | None,
    overwrite: bool,
    save_checkpoint: Path | None,
    no_sketch: bool,
    **scan: Any,
) -> None:
    """Turn CHECKPOINT (model.pt) into a bundle of validated ONNX graphs.

    With --data, also check that the bundle's R@K equals PyTorch's, and give it a sketch, with which large galleries are
    searched fast (caan sketch), if there is a split train. Where each setting came from is printed, and kept in
    the bundle for caan inspect.
    """
    from .._files import check_file_target, check_target, sha256_of
    from ..data.scan import find_split
    from ..model.checkpoint_file import check_is_file

    # Cheap checks first: importing PyTorch takes seconds.
    check_is_file(checkpoint)
    options.check_scan_files(**scan)
    if data is not None:
        find_split(data, split)
    elif tokens is not None:
        raise click.UsageError("--tokens holds the captions of --data DIR; add it")
    target = output or Path(checkpoint.stem + ".caan")
    check_target(target, overwrite=overwrite, kind="bundle")
    if save_checkpoint is not None:
        check_file_target(save_checkpoint, overwrite=overwrite)
        if save_checkpoint.exists() and save_checkpoint.samefile(checkpoint):
            raise OutputError(f"{save_checkpoint} is the checkpoint itself; name another file with --save-checkpoint")
    with needs("export", "caan export"):
        from ..export.bundle_from_checkpoint import export_checkpoint
        from ..model.checkpoint import ScanOptions, converted, load_checkpoint

    dataset = _opened(data, split, tokens)
    loaded = load_checkpoint(checkpoint, ScanOptions(**scan))
    with ExitStack() as stack:
        source = stored = checkpoint
        if save_checkpoint is not None:
            source, stored = save_checkpoint, stack.enter_context(converted(save_checkpoint, loaded))
        gate, settings = None, []
        if dataset is not None:
            from ..accuracy.gate import fp32_gate
            from ..accuracy.workload import split_workload
            from ..export.data_settings import data_settings
            from ..runtime import Retriever
            from ..runtime.backends.pytorch import TorchBackend

            # What later commands will know the same reference by.
            identity = loaded.digest() if loaded.is_converted and save_checkpoint is None else sha256_of(stored)
            reference = Retriever(TorchBackend(loaded, identity, "cpu", None))
            settings = data_settings(loaded.vocabulary, dataset)
            gate = fp32_gate(split_workload(dataset, limit), reference, log)
        report = export_checkpoint(
            loaded,
            source,
            target,
            overwrite=overwrite,
            gate=gate,
            stored=stored,
            settings=settings,
            progress=log,
        )
    _print(target, report, [*loaded.settings, *settings], loaded.metrics)
    if dataset is not None and not no_sketch:
        add_sketch(target, dataset)


def _print(target: Path, report: ExportReport, settings: list[Any], metrics: dict[str, Any]) -> None:
    show(f"{target}: {', '.join(report.bundle.manifest['files'])}")
    worst = max(report.errors.values())
    show(f"ONNX Runtime differs from PyTorch by {worst:.1e} at most, on random inputs")
    measured = None
    if report.gate is not None:
        show(f"on {report.gate['data']}: {report.gate['summary']}")
        measured = f"measured {report.gate['metrics']['rsum']:.2f} on {report.gate['data']}"
    show(settings_text(settings, metrics, measured))


def _opened(data: Path | None, split: str, tokens: str | None) -> ScanSplit | None:
    """The data set's split, opened before anything is exported; None without one."""
    from ..data.scan import open_split
    from ..data.tokens import with_tokens

    if data is None:
        return None
    opened = open_split(data, split)
    return opened if tokens is None else with_tokens(opened, Path(tokens))
