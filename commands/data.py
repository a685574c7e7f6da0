"""`caan data`: data sets in SCAN's form from what people have."""

from __future__ import annotations

from pathlib import Path

import click

from . import options
from .output import log, show


@click.group(epilog=options.EXIT_CODES)
def data() -> None:
    """Prepare data sets."""


@data.command(epilog=options.EXIT_CODES)
@click.argument("sources", type=options.PATH, nargs=-1, required=True, metavar="SOURCE…")
@click.option("-o", "--output", type=options.PATH, metavar="DIR", required=True, help="The data set's folder.")
@click.option(
    "--captions",
    type=options.PATH,
    metavar="FILE",
    help="Karpathy's dataset_*.json, COCO's captions_*.json, JSON lines, name#n⇥caption, .csv, or a caption per line.",
)
@click.option("--split", metavar="NAME", help="Write only this split.  [default: the captions' splits, or test]")
@click.option(
    "--names", type=options.PATH, metavar="FILE", help="Names of the features, if SOURCE has none; one a line."
)
@click.option(
    "--ids", type=options.PATH, metavar="FILE", help="For a plain list of captions: its images, per image or caption."
)
@click.option(
    "--captions-per-image", type=click.IntRange(min=1), metavar="N", help="The first N of each image.  [default: all]"
)
@click.option("--skip-unmatched", is_flag=True, help="Leave out images with captions and no features.")
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True, help="Of the features."
)
@options.overwrite
def convert(
    sources: tuple[Path, ...],
    output: Path,
    captions: Path | None,
    split: str | None,
    names: Path | None,
    ids: Path | None,
    captions_per_image: int | None,
    skip_unmatched: bool,
    dtype: str,
    overwrite: bool,
) -> None:
    """Turn region features and captions into a data set in SCAN's form, in DIR.

    SOURCE is bottom-up-attention's .tsv (several are read as one), a folder with one .npz or .npy file per image, an
    HDF5 file, an LMDB database, or one .npy array of all images. After an interruption, rerun the same command to
    resume.
    """
    from ..data.convert.convert import ConvertOptions
    from ..data.convert.convert import convert as convert_data

    chosen = ConvertOptions(captions, split, names, ids, captions_per_image, skip_unmatched, dtype, overwrite)
    try:
        written = convert_data(sources, output, chosen, log, bars=True)
    except KeyboardInterrupt:
        log("interrupted; rerun the same command to resume")
        raise
    for part in written:
        low, high = part.regions
        text = f"{part.captions:,} captions" if part.captions else "no captions"
        regions = f"{low}" if low == high else f"{low} to {high}"
        show(f"{output}: {part.split}, {part.images:,} images of {regions} regions, {text}")
