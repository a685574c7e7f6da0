"""`caan search`: a caption finds its images in a gallery."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options


@click.command(epilog=options.EXIT_CODES)
@click.argument("gallery", type=options.PATH)
@click.argument("caption")
@click.option("-k", type=click.IntRange(min=1), help="How many hits.  [default: 10, or all there are]")
@click.option("--bundle", type=options.PATH, metavar="BUNDLE", help="[default: the one the gallery was made with]")
@options.precision
@options.device
@options.threads
@options.as_json
def search(
    gallery: Path,
    caption: str,
    k: int | None,
    bundle: Path | None,
    precision: str,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Rank the images of GALLERY for a typed CAPTION."""
    from ..runtime import Gallery, Retriever
    from ..runtime.index import bundle_of

    opened = Gallery.open(gallery)
    path = bundle or bundle_of(opened, gallery)
    retriever = Retriever.open(path, "auto", precision, device=device, threads=threads)
    hits = retriever.search(caption, opened, min(10, len(opened)) if k is None else k)
    if as_json:
        rows = [{"index": h.index, "id": opened.ids and opened.ids[h.index], "score": h.score} for h in hits]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for rank, hit in enumerate(hits, 1):
        click.echo(f"{rank:3d}  {hit.score:8.4f}  {opened.ids[hit.index] if opened.ids else hit.index}")
