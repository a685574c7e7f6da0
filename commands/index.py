"""`caan index`: images or captions become a gallery."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command(epilog=options.EXIT_CODES)
@click.argument("bundle", type=options.PATH)
@click.argument("features", type=options.PATH)
@click.option("-o", "--output", type=options.PATH, metavar="GALLERY", required=True, help="The folder to write.")
@click.option("--ids", type=options.PATH, metavar="FILE", help="One name per image, a line each.")
@options.overwrite
@options.precision
@options.device
@options.threads
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
    from ..data.scan import open_features, read_captions
    from ..runtime import Retriever
    from ..runtime.index import index_images

    array = open_features(features)
    names = None if ids is None else read_captions(ids)
    retriever = Retriever.open(bundle, "auto", precision, device=device, threads=threads)
    gallery = index_images(retriever, bundle, array, names, output, overwrite=overwrite, progress=True)
    click.echo(f"{output}: {len(gallery)} images")
