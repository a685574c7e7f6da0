"""`caan explain`: what CAAN looked at in a picture, for a caption."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._text import visible
from ..errors import DataError, OutputError
from . import options
from .output import is_printed, show, show_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..runtime import Explanation
    from ..runtime.choices import Device, Precision

_STRONGEST = 5
_WORD_SIDES = ("left", "right", "right", "right")


@click.command(epilog=options.EXIT_CODES)
@click.argument("bundle", type=options.PATH)
@click.argument("features", type=options.PATH)
@click.argument("caption")
@click.option("--item", metavar="ITEM", help="Which image: its id, or its number from 0.  [default: the only one]")
@click.option("--ids", type=options.PATH, metavar="FILE", help="One name per image, a line each.")
@click.option("--lengths", type=options.PATH, metavar="FILE", help="Regions of each image: .npy of (images,) integers.")
@click.option("--picture", type=options.PATH, metavar="FILE", help="The image, to be shaded.")
@click.option("--boxes", type=options.PATH, metavar="FILE.npy", help="(images, regions, 4): x0 y0 x1 y1, 0 to 1.")
@click.option(
    "--grid",
    type=options.grid,
    metavar="ROWSxCOLUMNS",
    help="Instead: the regions are a grid's cells, row by row, as 6x6.",
)
@click.option("-o", "--output", type=options.PATH, metavar="FILE.png", help="Draw it.  [default: print a table]")
@options.overwrite
@options.precision
@options.device
@options.threads
@options.trust_engines
@options.as_json
def explain(
    bundle: Path,
    features: Path,
    caption: str,
    item: str | None,
    ids: Path | None,
    lengths: Path | None,
    picture: Path | None,
    boxes: Path | None,
    grid: tuple[int, int] | None,
    output: Path | None,
    overwrite: bool,
    precision: Precision,
    device: Device,
    threads: int | None,
    trust_engines: bool,
    as_json: bool,
) -> None:
    """Show which regions of an image, and which words of CAPTION, the score of the two comes from.

    FEATURES (.npy: images, regions, F) are those that caan index takes.
    """
    from ..data.scan import open_features, open_lengths, read_ids
    from ..runtime.inputs import image_lengths

    if boxes is not None and grid is not None:
        raise click.UsageError("--boxes and --grid both say where the regions are; give one of them")
    if picture is not None and output is None:
        raise click.UsageError("--picture is there to be drawn; add -o FILE.png")
    if output is not None:
        _check_output(output, overwrite)
    array = open_features(features)
    images, regions = array.shape[:2]
    names = None if ids is None else read_ids(ids)
    if names is not None and len(names) != images:
        raise DataError(f"{ids} names {len(names)} images, {features} holds {images}")
    number = _find(item, names, images)
    valid = regions if lengths is None else int(image_lengths(array, open_lengths(lengths))[number])
    own_boxes = _boxes(boxes, grid, images, regions, number)
    if own_boxes is not None:
        own_boxes = own_boxes[:valid]
    opened = None
    if output is not None:
        from ..pictures.regions import read_picture

        opened = None if picture is None else read_picture(picture)
        from ..pictures.attention import draw_explanation
    from .._files import atomic_file
    from ..runtime import Retriever

    # Opened before the work, in case it can't be written.
    with atomic_file(output) if output is not None else nullcontext() as temporary:
        retriever = Retriever.open(
            bundle, "auto", precision, device=device, threads=threads, trust_engines=trust_engines
        )
        found = retriever.explain(array[number, :valid], caption)
        if temporary is not None:
            figure = draw_explanation(found, opened, own_boxes)
            figure.savefig(temporary, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    if as_json:
        placed = None if own_boxes is None else own_boxes.tolist()
        content = {"index": number, "id": names and names[number], **found.as_dict(), "boxes": placed}
        show_json(content, err=is_printed(output))
    else:
        text = f"{output}: score {found.score:.4f}" if output is not None else _text(found, own_boxes)
        show(text, err=is_printed(output))


def _check_output(output: Path, overwrite: bool) -> None:
    from .._files import check_file_target
    from .._files.outputs import is_special

    if output.suffix.lower() != ".png" and not is_special(output):
        raise OutputError(f"{output} is no name for a PNG; end it with .png")
    check_file_target(output, overwrite=overwrite)


def _find(item: str | None, names: list[str] | None, images: int) -> int:
    """The number of the image that is meant. An id goes before a number that reads the same."""
    if item is None:
        if images > 1:
            raise click.UsageError(f"there are {images} images; say which with --item 0 to {images - 1}, or its id")
        return 0
    holders = [number for number, name in enumerate(names or []) if name == item]
    if len(holders) > 1:
        raise DataError(f"'{item}' is the id of {len(holders)} images; give its number instead, as {holders[0]}")
    if holders:
        return holders[0]
    if re.fullmatch(r"[0-9]{1,18}", item) and int(item) < images:
        return int(item)
    an_id = "" if names is None else "an id of --ids, nor "
    missing = "; ids need --ids FILE" if names is None else ""
    raise DataError(f"--item '{item[:80]}' is not {an_id}a number from 0 to {images - 1}{missing}")


def _boxes(
    file: Path | None, grid: tuple[int, int] | None, images: int, regions: int, number: int
) -> NDArray[np.float32] | None:
    """The boxes (R, 4) of one image, if somebody said where they are."""
    from ..pictures.regions import fitting_grid, read_boxes

    if file is not None:
        own: NDArray[np.float32] = read_boxes(file, images, regions)[number]
        return own
    return None if grid is None else fitting_grid(*grid, regions, "--grid")


def _text(found: Explanation, boxes: NDArray[np.float32] | None) -> str:
    """Two tables: every word with the region it looks at, and the regions with the most weight."""
    from tabulate import tabulate

    words = [
        [
            visible(word) if known else f"{visible(word)} (unknown)",
            f"{weight:.3f}",
            str(attention.argmax()),
            f"{attention.max():.2f}",
        ]
        for word, known, weight, attention in zip(found.words, found.known, found.au, found.Hv.T, strict=True)
    ]
    regions = [
        [
            str(region),
            f"{found.av[region]:.3f}",
            visible(found.words[found.Hu[region].argmax()]),
            f"{found.Hu[region].max():.2f}",
            *([] if boxes is None else [" ".join(f"{side:.2f}" for side in boxes[region])]),
        ]
        for region in (-found.av).argsort(kind="stable")[:_STRONGEST]
    ]
    box = [] if boxes is None else ["x0 y0 x1 y1"]
    sides = ["right", "right", "left", "right", *["left"] * len(box)]
    tables = [
        tabulate(words, ["word", "weight au", "looks at region", "Hv"], disable_numparse=True, colalign=_WORD_SIDES),
        tabulate(regions, ["region", "weight av", "looks at word", "Hu", *box], disable_numparse=True, colalign=sides),
    ]
    return "\n\n".join([f"score {found.score:.4f}", *tables])
