"""`caan demo`: the other commands in a row, on a drawn world."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ..errors import MissingError
from . import options
from .output import log


@click.command(epilog=options.EXIT_CODES)
@click.argument("folder", type=options.PATH, default="demo")
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """The whole job on a drawn world, in FOLDER: data, training, export, engines, bench, index, search."""
    from ..data.demo.world import write_world

    world, model, bundle, gallery = (folder / name for name in ("world", "model.pt", "model.caan", "gallery"))
    log(f"drawing a world of scenes with captions in {world}")
    write_world(world)
    caan = context.find_root().command
    steps = [
        ["train", world, "-o", model, "--restart"],
        ["export", model, "-o", bundle, "--data", world, "--overwrite"],
        ["build-engine", bundle, "--fp16", "--data", world],
        ["build-engine", bundle, "--int8", "--calibration-data", world, "--data", world],
        ["bench", bundle, "--data", world],
        ["index", bundle, world / "test_ims.npy", "--ids", world / "test_ids.txt", "-o", gallery, "--overwrite"],
        ["search", gallery, "three birds fly over the sea", "-k", "5"],
    ]
    for step in steps:
        arguments = [str(part) for part in step]
        click.echo(f"\n$ caan {shlex.join(arguments)}")
        try:
            caan.main(arguments, prog_name="caan", standalone_mode=False)
        except MissingError as error:
            if arguments[0] != "build-engine":
                raise
            log(f"left out: {error}")  # everything else works without TensorRT
    click.echo(f'\nThe pictures are in {world / "thumbnails"}; type a caption of your own: caan search {gallery} "…"')
