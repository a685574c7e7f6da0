"""`caan convert`: a SCAN-family checkpoint → this project's, which holds its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..errors import OutputError, needs
from . import options
from .output import settings_text, show


@click.command(epilog=options.EXIT_CODES)
@click.argument("checkpoint", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, default="model.pt", show_default=True, metavar="FILE")
@options.overwrite
@options.scan_family
def convert(checkpoint: Path, output: Path, overwrite: bool, **scan: Any) -> None:
    """Turn CHECKPOINT, of code derived from SCAN, into a model.pt that every command takes.

    The result holds the parameters under this project's names, the vocabulary, λ and both norms. Where each setting
    came from is printed, and kept in the file.
    """
    from .._files import check_file_target
    from ..model.checkpoint_file import check_is_file

    # Cheap checks first: importing PyTorch takes seconds.
    check_is_file(checkpoint)
    options.check_scan_files(**scan)
    check_file_target(output, overwrite=overwrite)
    if output.exists() and output.samefile(checkpoint):
        raise OutputError(f"{output} is the checkpoint itself; name another file with -o")
    with needs("export", "caan convert"):
        from ..model.checkpoint import ScanOptions, converted, load_checkpoint

    loaded = load_checkpoint(checkpoint, ScanOptions(**scan))
    with converted(output, loaded):
        pass
    show(f"{output}: converted from {checkpoint}")
    show(settings_text(loaded.settings, loaded.metrics))
