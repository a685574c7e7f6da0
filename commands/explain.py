"""`caan explain`: what CAAN attended to in a picture, for a caption."""

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
@click.argument("caption", required=False)
@options.tokens
@click.option("--item", metavar="ITEM", help="Which image: its id, or its number from 0.  [default: the only one]")
@click.option("--ids", type=options.PATH, metavar="FILE", help="One id per line and image.")
@click.option(
    "--lengths",
    type=options.PATH,
    metavar="FILE",
    help="Regions of each image: .npy of (images,) integers.  [default: X_lengths.npy beside X_ims.npy]",
)
@click.option("--picture", type=options.PATH, metavar="FILE", help="The picture to shade.")
@click.option(
    "--boxes",
    type=options.PATH,
    metavar="FILE.npy",
    help="(images, regions, 4): x0 y0 x1 y1, 0 to 1; or X_ims_bbx.npy in pixels, with X_ims_size.npy beside it.",
)
@click.option(
    "--grid",
    type=options.grid,
    metavar="ROWSxCOLUMNS",
    help="Instead of --boxes: the regions are a grid's cells, row by row, as 6x6.",
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
    caption: str | None,
    tokens: str | None,
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

    FEATURES (.npy: images, regions, F) are those that caan index takes. --tokens holds the words of one caption.
    """
    from ..data.scan import lengths_beside, open_features, open_lengths, read_ids
    from ..runtime.inputs import image_lengths

    if (caption is None) == (tokens is None):
        raise click.UsageError("give exactly one of CAPTION and --tokens FILE")
    if boxes is not None and grid is not None:
        raise click.UsageError("--boxes and --grid both give the regions' positions; use one of them")
    if picture is not None and output is None:
        raise click.UsageError("--picture is for drawing; add -o FILE.png")
    if output is not None:
        _check_output(output, overwrite)
    words = caption if caption is not None else _only_tokens(Path(str(tokens)))
    array = open_features(features)
    images, regions = array.shape[:2]
    names = None if ids is None else read_ids(ids)
    if names is not None and len(names) != images:
        raise DataError(f"{ids} names {len(names)} images, {features} holds {images}")
    number = _find(item, names, images)
    lengths = lengths or lengths_beside(features)
    all_lengths = image_lengths(array, None if lengths is None else open_lengths(lengths))
    valid = int(all_lengths[number])
    image_boxes = _boxes(boxes, grid, images, regions, number, all_lengths)
    if image_boxes is not None:
        image_boxes = image_boxes[:valid]
    opened = None
    if output is not None:
        from ..pictures.regions import read_picture

        opened = None if picture is None else read_picture(picture)
        from ..pictures.attention import draw_explanation
    from .._files import atomic_file
    from ..runtime import Retriever

    # Open first, in case it can't be written.
    with atomic_file(output) if output is not None else nullcontext() as temporary:
        retriever = Retriever.open(
            bundle, "auto", precision, device=device, threads=threads, trust_engines=trust_engines
        )
        explanation = retriever.explain(array[number, :valid], words)
        if temporary is not None:
            figure = draw_explanation(explanation, opened, image_boxes)
            figure.savefig(temporary, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    if as_json:
        box_list = None if image_boxes is None else image_boxes.tolist()
        content = {"index": number, "id": names and names[number], **explanation.as_dict(), "boxes": box_list}
        show_json(content, err=is_printed(output))
    else:
        text = f"{output}: score {explanation.score:.4f}" if output is not None else _text(explanation, image_boxes)
        show(text, err=is_printed(output))


def _only_tokens(file: Path) -> list[str]:
    from ..data.tokens import read_tokens

    captions = read_tokens(file)
    if len(captions) != 1:
        raise DataError(f"{file} holds {len(captions)} captions; explain one at a time")
    (words,) = captions
    return list(words)


def _check_output(output: Path, overwrite: bool) -> None:
    from .._files import check_file_target
    from .._files.outputs import is_special

    if output.suffix.lower() != ".png" and not is_special(output):
        raise OutputError(f"{output} does not end in .png; name a .png file")
    check_file_target(output, overwrite=overwrite)


def _find(item: str | None, names: list[str] | None, images: int) -> int:
    """The index of the selected image. An id takes precedence over an equal number."""
    if item is None:
        if images > 1:
            raise click.UsageError(f"there are {images} images; select one with --item 0 to {images - 1}, or its id")
        return 0
    matches = [number for number, name in enumerate(names or []) if name == item]
    if len(matches) > 1:
        raise DataError(f"'{item}' is the id of {len(matches)} images; give its number instead, as {matches[0]}")
    if matches:
        return matches[0]
    if re.fullmatch(r"[0-9]{1,18}", item) and int(item) < images:
        return int(item)
    an_id = "" if names is None else "an id of --ids, nor "
    missing = "; ids need --ids FILE" if names is None else ""
    raise DataError(f"--item '{item[:80]}' is not {an_id}a number from 0 to {images - 1}{missing}")


def _boxes(
    file: Path | None,
    grid: tuple[int, int] | None,
    images: int,
    regions: int,
    number: int,
    lengths: NDArray[np.int64],
) -> NDArray[np.float32] | None:
    """The boxes (R, 4) of one image, if given."""
    from ..pictures.regions import fitting_grid, read_boxes

    if file is not None:
        boxes: NDArray[np.float32] = read_boxes(file, images, regions, lengths)[number]
        return boxes
    return None if grid is None else fitting_grid(*grid, regions, "--grid")


def _text(explanation: Explanation, boxes: NDArray[np.float32] | None) -> str:
    """Two tables: each word with the region it attends to most, and the regions with the highest weights."""
    from tabulate import tabulate

    words = [
        [
            visible(word) if known else f"{visible(word)} (unknown)",
            f"{weight:.3f}",
            str(attention.argmax()),
            f"{attention.max():.2f}",
        ]
        for word, known, weight, attention in zip(
            explanation.words, explanation.known, explanation.au, explanation.Hv.T, strict=True
        )
    ]
    regions = [
        [
            str(region),
            f"{explanation.av[region]:.3f}",
            visible(explanation.words[explanation.Hu[region].argmax()]),
            f"{explanation.Hu[region].max():.2f}",
            *([] if boxes is None else [" ".join(f"{side:.2f}" for side in boxes[region])]),
        ]
        for region in (-explanation.av).argsort(kind="stable")[:_STRONGEST]
    ]
    box = [] if boxes is None else ["x0 y0 x1 y1"]
    sides = ["right", "right", "left", "right", *["left"] * len(box)]
    tables = [
        tabulate(words, ["word", "weight au", "looks at region", "Hv"], disable_numparse=True, colalign=_WORD_SIDES),
        tabulate(regions, ["region", "weight av", "looks at word", "Hu", *box], disable_numparse=True, colalign=sides),
    ]
    return "\n\n".join([f"score {explanation.score:.4f}", *tables])
