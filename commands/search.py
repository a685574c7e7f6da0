"""`caan search`: captions find their images in a gallery."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import DataError
from . import options
from .output import is_printed

if TYPE_CHECKING:
    from ..report.find_pictures import PictureFolder
    from ..runtime import Gallery, Hit


@click.command(epilog=options.EXIT_CODES)
@click.argument("gallery", type=options.PATH)
@click.argument("caption", required=False)
@click.option("--captions", metavar="FILE", help="Many captions instead, one a line; - reads them from stdin.")
@click.option("-k", type=click.IntRange(min=1), help="How many hits.  [default: 10, or all there are]")
@click.option("--bundle", type=options.PATH, metavar="BUNDLE", help="[default: the one the gallery was made with]")
@click.option("--html", type=options.PATH, metavar="FILE.html", help="Write a page, with pictures if ids name them.")
@click.option(
    "--pictures", type=options.PATH, metavar="DIR", help="Where ids name pictures.  [default: current folder]"
)
@options.overwrite
@options.backend
@click.option("--precision", help="One that the bundle has, or bf16.  [default: the gallery's]")
@options.device
@options.threads
@options.trust_engines
@options.as_json
def search(
    gallery: Path,
    caption: str | None,
    captions: str | None,
    k: int | None,
    bundle: Path | None,
    html: Path | None,
    pictures: Path | None,
    overwrite: bool,
    backend: str,
    precision: str | None,
    device: str,
    threads: int | None,
    trust_engines: bool,
    as_json: bool,
) -> None:
    """Rank the images of GALLERY for a typed CAPTION, or for each of --captions.

    With --json, CAPTION's hits are a list; those of --captions a list of captions with their hits.
    """
    from .._files import atomic_file, check_file_target
    from ..runtime import Gallery, Retriever
    from ..runtime.index import bundle_of, precision_of

    if (caption is None) == (captions is None):
        raise click.UsageError("give a CAPTION, or many in a file with --captions; one of the two")
    if pictures is not None and html is None:
        raise click.UsageError("--pictures is for the page; add --html FILE.html")
    if html is not None:
        check_file_target(html, overwrite=overwrite)
    opened = Gallery.open(gallery)
    if opened.kind != "image":
        raise DataError(
            f"{gallery} holds captions, and captions search among images; make a gallery of images with: caan index"
            " BUNDLE FEATURES.npy"
        )
    texts = [caption] if caption is not None else _read(str(captions))
    folder = _pictures(pictures) if html is not None else None
    # Opened before the search, in case it can't be written.
    with atomic_file(html) if html is not None else nullcontext() as target:
        path = bundle or bundle_of(opened, gallery)
        precision = precision or (precision_of(opened, path) if path.is_dir() else None) or "fp32"
        retriever = Retriever.open(
            path, backend, precision, device=device, threads=threads, trust_engines=trust_engines
        )
        found = retriever.search_many(texts, opened, min(10, len(opened.live)) if k is None else k)
        if target is not None and folder is not None:
            from ..report.search_page import search_page

            target.write_text(search_page(gallery.resolve().name, texts, found, opened, folder), encoding="utf-8")
    rows = [[_row(hit, opened) for hit in hits] for hits in found]
    if as_json:
        grouped = [{"caption": text, "hits": hits} for text, hits in zip(texts, rows, strict=True)]
        content = json.dumps(grouped if caption is None else rows[0], indent=2, ensure_ascii=False)
        click.echo(content, err=is_printed(html))
        return
    tables = [_table(hits) for hits in rows]
    if caption is None:
        tables = [f"{text}\n{table}" for text, table in zip(texts, tables, strict=True)]
    click.echo("\n\n".join(tables), err=is_printed(html))


def _read(file: str) -> list[str]:
    from ..data.scan import captions_of, read_captions

    if file != "-":
        return read_captions(Path(file))
    if sys.stdin is None:
        raise DataError("standard input is closed; name a file of captions, one a line")
    return captions_of(sys.stdin.buffer.read(), "standard input")


def _pictures(folder: Path | None) -> PictureFolder:
    """Where the page's pictures lie; fails now, not after the search, if there can't be a page."""
    from ..report.find_pictures import PictureFolder
    from ..report.template import check_installed

    check_installed("--html")
    return PictureFolder(folder)


def _row(hit: Hit, gallery: Gallery) -> dict[str, Any]:
    return {"index": hit.index, "id": gallery.ids and gallery.ids[hit.index], "score": hit.score}


def _table(rows: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{rank:3d}  {row['score']:8.4f}  {row['index'] if row['id'] is None else row['id']}"
        for rank, row in enumerate(rows, 1)
    )
