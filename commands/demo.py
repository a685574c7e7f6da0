"""`caan demo`: the other commands in a row, on a drawn world."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ..errors import MissingError
from . import options
from .output import log, show

# A scene that the model has not seen, and its caption.
_SCENE, _CAPTION = "scene-001857", "a white cat is to the right of a pink parasol by the shore ."


@click.command(epilog=options.EXIT_CODES)
@click.argument("folder", type=options.PATH, default="demo")
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """The whole job on a drawn world, in FOLDER: data, training, export, engines, bench, report, index, search."""
    from ..data.demo.world import write_world

    world, model, bundle, gallery = (folder / name for name in ("world", "model.pt", "model.caan", "gallery"))
    features, ids, pictures = world / "test_ims.npy", world / "test_ids.txt", world / "thumbnails"
    report, page, drawing = (folder / name for name in ("report.html", "search.html", "explain.png"))
    shown = ["--boxes", world / "test_boxes.npy", "--picture", pictures / f"{_SCENE}.png"]
    log(f"drawing a world of scenes with captions in {world}")
    write_world(world)
    caan = context.find_root().command
    steps = [
        ["train", world, "-o", model, "--restart"],
        ["export", model, "-o", bundle, "--data", world, "--overwrite"],
        ["build-engine", bundle, "--fp16", "--data", world],
        ["build-engine", bundle, "--int8", "--calibration-data", world, "--data", world],
        ["bench", bundle, "--data", world, "--report", report],
        ["index", bundle, features, "--ids", ids, "-o", gallery, "--overwrite"],
        ["search", gallery, "three birds fly over the sea", "-k", "5", "--html", page, "--pictures", pictures],
        ["explain", bundle, features, _CAPTION, "--item", _SCENE, "--ids", ids, *shown, "-o", drawing, "--overwrite"],
    ]
    for step in steps:
        arguments = [str(part) for part in step]
        show(f"\n$ caan {shlex.join(arguments)}")
        try:
            caan.main(arguments, prog_name="caan", standalone_mode=False)
        except MissingError as error:
            if arguments[0] != "build-engine":
                raise
            log(f"left out: {error}")  # everything else works without TensorRT
    show(f"\nOpen these: {report}, {page}, {drawing}")
    show(f'The pictures are in {pictures}; type a caption of your own: caan search {gallery} "…"')
