"""`caan export`: checkpoint → bundle."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import DataError, needs
from . import options
from .output import log, show


@click.command(epilog=options.EXIT_CODES)
@click.argument("checkpoint", type=options.PATH)
@click.option(
    "-o", "--output", type=options.PATH, metavar="BUNDLE", help="[default: CHECKPOINT's name with .caan, here]"
)
@options.data
@options.split
@options.limit
@options.overwrite
@click.option("--vocab", type=options.PATH, metavar="FILE", help="Vocabulary JSON; for SCAN-family checkpoints.")
@click.option("--tokenizer", help="Of --vocab: nltk, word-punct or whitespace.  [default: the file's, or nltk]")
@click.option(
    "--key-map", type=options.PATH, metavar="FILE", help="JSON {our name: their name}; for SCAN-family checkpoints."
)
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
    limit: int | None,
    overwrite: bool,
    vocab: Path | None,
    tokenizer: str | None,
    key_map: Path | None,
    attention_scale: float | None,
) -> None:
    """Turn CHECKPOINT (model.pt) into a bundle of validated ONNX graphs.

    With --data, also check that the bundle's R@K equals PyTorch's.
    """
    from .._files import check_target
    from ..data.scan import find_split
    from ..model.checkpoint_file import check_is_file

    # Cheap checks first: importing PyTorch takes seconds.
    check_is_file(checkpoint)
    for file, what in ((vocab, "vocabulary"), (key_map, "key map")):
        if file is not None and not file.exists():
            raise DataError(f"can't read the {what} {file}: there is no such file")
    if data is not None:
        find_split(data, split)
    target = output or Path(checkpoint.stem + ".caan")
    check_target(target, overwrite=overwrite, kind="bundle")
    with needs("export", "caan export"):
        from ..export.bundle_from_checkpoint import export_checkpoint
        from ..model.checkpoint import ScanOptions, load_checkpoint

    gate = None
    if data is not None:
        from ..accuracy.gate import fp32_gate

        gate = fp32_gate(data, split, checkpoint, log, limit)
    loaded = load_checkpoint(checkpoint, ScanOptions(vocab, tokenizer, key_map, attention_scale))
    report = export_checkpoint(loaded, checkpoint, target, overwrite=overwrite, gate=gate, progress=log)
    show(f"{target}: {', '.join(report.bundle.manifest['files'])}")
    worst = max(report.errors.values())
    show(f"ONNX Runtime differs from PyTorch by {worst:.1e} at most, on random inputs")
    if report.gate is not None:
        show(f"on {report.gate['data']}: {report.gate['summary']}")
