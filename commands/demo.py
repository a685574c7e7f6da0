"""`caan demo`: runs the other commands in sequence on a drawn world."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ..errors import MissingError, OutputError
from . import options
from .output import log, show

# Marks a folder as the demo's. Older versions left no mark; a finished folder of theirs holds these names.
_MARK = ".caan-demo"
_FINISHED = {"world", "model.pt", "model.caan", "gallery", "report.html", "search.html", "explain.png"}
_SCENES = 200  # of the test split
_QUERY = "three birds fly over the sea"
# A test scene and its caption.
_SCENE, _CAPTION = "scene-001857", "a white cat is to the right of a pink parasol by the shore ."


@click.command(epilog=options.EXIT_CODES)
@click.argument("folder", type=options.PATH, default="demo")
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """The whole workflow on a drawn world, in FOLDER: data, training, export, engines, bench, report, index, search.

    FOLDER must be new, empty, or from an earlier demo, whose files are replaced.
    """
    from ..data.demo.world import write_world

    _begin(folder)

    world, model, bundle, gallery = (folder / name for name in ("world", "model.pt", "model.caan", "gallery"))
    features, ids, pictures = world / "test_ims.npy", world / "test_ids.txt", world / "thumbnails"
    report, page, drawing = (folder / name for name in ("report.html", "search.html", "explain.png"))
    image = ["--boxes", world / "test_boxes.npy", "--picture", pictures / f"{_SCENE}.png"]
    log(f"drawing a world of scenes with captions in {world}")
    write_world(world)
    caan = context.find_root().command
    steps = [
        ["train", world, "-o", model, "--restart"],
        ["export", model, "-o", bundle, "--data", world, "--overwrite"],
        ["build-engine", bundle, "--fp16", "--data", world],
        ["build-engine", bundle, "--int8", "--calibration-data", world, "--data", world],
        # One round over all test scenes: the demo shows what there is, caan-bench measures.
        ["bench", bundle, "--data", world, "--quick", "--limit", _SCENES, "--report", report],
        ["index", bundle, features, "--ids", ids, "-o", gallery, "--overwrite"],
        [
            "search",
            gallery,
            _QUERY,
            "-k",
            "5",
            "--html",
            page,
            "--pictures",
            pictures,
            "--overwrite",
        ],
        [
            "explain",
            bundle,
            features,
            _CAPTION,
            "--item",
            _SCENE,
            "--ids",
            ids,
            *image,
            "-o",
            drawing,
            "--overwrite",
        ],
    ]
    for step in steps:
        arguments = [str(part) for part in step]
        show(f"\n$ caan {shlex.join(arguments)}")
        try:
            caan.main(arguments, prog_name="caan", standalone_mode=False)
        except MissingError as error:
            if arguments[0] != "build-engine":
                raise
            log(f"skipped: {error}")  # everything else works without TensorRT
    show(f"\nOpen {report}, {page}, {drawing}")
    show(f'The pictures are in {pictures}; try your own caption: caan search {gallery} "…"')


def _begin(folder: Path) -> None:
    """Mark the folder as the demo's. Raises OutputError if it may hold the user's files."""
    from .._files import atomic_file, explained

    with explained(folder, creating=True):
        folder.mkdir(parents=True, exist_ok=True)
        existing = sorted(path.name for path in folder.iterdir())
    if existing and _MARK not in existing and set(existing) != _FINISHED:
        raise OutputError(
            f"{folder} holds {existing[0]} and was not written by the demo; name another: caan demo FOLDER"
        )
    with atomic_file(folder / _MARK) as temporary:
        temporary.write_text(
            "caan demo wrote this folder and replaces its files when it runs again\n", encoding="utf-8"
        )
