"""`caan search`: captions find images in a gallery of images, images find captions in one of captions."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from .._text import Lines, visible
from ..errors import CaanError, DataError
from . import options
from .output import is_printed, log, show, show_json
from .search_results import row, show_images, show_one, table
from .tables import check_suffix, write_hits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..data.vocabulary import Vocabulary
    from ..report.find_pictures import PictureFolder
    from ..runtime.choices import BackendName, Device, Precision
    from ..runtime.lists import TokenizedCaption


@click.command(epilog=f"{options.EXIT_CODES} Of --captions, 1: some have no answer.")
@click.argument("gallery", type=options.PATH)
@click.argument("caption", required=False)
@click.option("--captions", metavar="FILE", help="Many captions instead, one a line; - reads them from stdin.")
@click.option(
    "--features",
    type=options.PATH,
    metavar="FILE.npy",
    help="Search with images: (regions, F) or (images, regions, F).",
)
@click.option("--item", type=click.IntRange(min=0), metavar="N", help="Only image N of --features, from 0.")
@click.option("-k", type=click.IntRange(min=1), help="How many hits.  [default: 10, or all there are]")
@click.option("--min-score", type=float, metavar="SCORE", help="Leave lower scores out.")
@click.option("--bundle", type=options.PATH, metavar="BUNDLE", help="[default: the one the gallery was made with]")
@click.option("--html", type=options.PATH, metavar="FILE.html", help="Write a page, with pictures if ids name them.")
@click.option(
    "--pictures", type=options.PATH, metavar="DIR", help="Where ids name pictures.  [default: current folder]"
)
@click.option("--export", type=options.PATH, metavar="FILE", help="Write the hits there too: .csv or .npy.")
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
    features: Path | None,
    item: int | None,
    k: int | None,
    min_score: float | None,
    bundle: Path | None,
    html: Path | None,
    pictures: Path | None,
    export: Path | None,
    overwrite: bool,
    backend: BackendName,
    precision: str | None,
    device: Device,
    threads: int | None,
    trust_engines: bool,
    as_json: bool,
) -> None:
    """Rank the images of GALLERY for a typed CAPTION, or for each of --captions.

    In a gallery of captions, search with the region features of images instead: --features FILE.npy.

    With --json, the hits of CAPTION or of one image are a list; those of --captions a list of captions with their
    lines, hits and unknown words, those of several images a list of images with their hits. A line of --captions that
    can't be searched with has an "error"; the others are answered.
    """
    from .._files import atomic_file, check_file_target, temporary_folder
    from ..runtime import Gallery, Retriever
    from ..runtime.index import bundle_of, precision_of

    if (caption is not None) + (captions is not None) + (features is not None) != 1:
        raise click.UsageError("give a CAPTION, many with --captions FILE, or images with --features FILE; one of them")
    if item is not None and features is None:
        raise click.UsageError("--item picks an image of --features; add --features FILE.npy")
    if html is not None and features is not None:
        raise click.UsageError("--html is for captions; leave it out with --features")
    if pictures is not None and html is None:
        raise click.UsageError("--pictures is for the page; add --html FILE.html")
    if export is not None:
        check_suffix(export)
    for file in (html, export):
        if file is not None:
            check_file_target(file, overwrite=overwrite)
    opened = Gallery.open(gallery)
    if features is None and opened.kind != "image":
        raise DataError(
            f"{gallery} holds captions, and captions search among images; search it with an image: --features FILE.npy,"
            " or make a gallery of images with: caan index BUNDLE FEATURES.npy"
        )
    if features is not None and opened.kind != "text":
        raise DataError(
            f"{gallery} holds images, and images search among captions; search it with a CAPTION, or make a gallery of"
            " captions with: caan index BUNDLE CAPTIONS.txt"
        )

    def retriever() -> Retriever:
        path = bundle or bundle_of(opened, gallery)
        kept = precision or (precision_of(opened, path) if path.is_dir() else None) or "fp32"
        return Retriever.open(
            path, backend, cast("Precision", kept), device=device, threads=threads, trust_engines=trust_engines
        )

    if features is not None:
        images, numbers = _images(features, item)
        with temporary_folder("queries", "the images' states") as scratch:
            model = retriever()
            queries = model.encode_images(images, folder=scratch)
            found = model.search_many(queries, opened, k, min_score=min_score)
        show_images(found, numbers, opened, export, as_json=as_json, aside=is_printed(export))
        return
    texts: list[str] = [caption] if caption is not None else _read(str(captions))
    folder = _pictures(pictures) if html is not None else None
    # Opened before the search, in case it can't be written.
    with atomic_file(html) if html is not None else nullcontext() as target:
        model = retriever()
        known, errors = _tokenized(texts, model.backend.model.vocabulary)
        asked = _without(texts, errors)
        if not asked and (caption is not None or html is not None):
            raise errors[0]
        found = []
        if asked:
            words = list(known.values())
            found = model.search_many(
                asked.replaced(words) if isinstance(asked, Lines) else words, opened, k, min_score=min_score
            )
        if target is not None and folder is not None:
            from ..report.search_page import search_page

            target.write_text(search_page(gallery.resolve().name, asked, found, opened, folder), encoding="utf-8")
    if export is not None:
        write_hits(export, zip((n for n in range(len(texts)) if n not in errors), found, strict=True), opened.ids)
    rows = [[row(hit, opened) for hit in hits] for hits in found]
    aside = is_printed(html) or is_printed(export)
    if caption is not None:
        show_one(rows[0], as_json, aside)
        return
    if as_json:
        show_json(_entries(texts, errors, rows, known, model.backend.model.vocabulary), err=aside)
    elif rows:
        tables = (f"{visible(text)}\n{table(hits)}" for text, hits in zip(asked, rows, strict=True))
        show("\n\n".join(tables), err=aside)
    if errors:
        assert isinstance(texts, Lines)
        for index, error in errors.items():
            log(f"{texts.place(index)}: {error}")
        raise CaanError(f"{len(errors)} of {len(texts)} captions have no answer; the lines above say why")


def _read(file: str) -> Lines:
    from ..data.scan import captions_of, read_text_file

    if file == "-":
        if sys.stdin is None:
            raise DataError("standard input is closed; name a file of captions, one a line")
        return captions_of(sys.stdin.buffer.read(), "standard input", may_lack=True)
    return captions_of(read_text_file(Path(file)), file, may_lack=True)


def _tokenized(texts: list[str], vocabulary: Vocabulary) -> tuple[dict[int, TokenizedCaption], dict[int, DataError]]:
    """Captions to search with, and what is wrong with the others, by their place among the texts."""
    from ..runtime.inputs import known_caption

    known, errors = {}, {}
    for index, text in enumerate(texts):
        try:
            known[index] = known_caption(text, vocabulary)
        except DataError as error:
            errors[index] = error
    return known, errors


def _without(texts: list[str], errors: dict[int, DataError]) -> list[str]:
    """The captions that can be searched with; those of a file still know their lines."""
    kept = [index for index in range(len(texts)) if index not in errors]
    return texts.part(kept) if isinstance(texts, Lines) else [texts[index] for index in kept]


def _entries(
    texts: list[str],
    errors: dict[int, DataError],
    rows: list[list[dict[str, Any]]],
    known: dict[int, TokenizedCaption],
    vocabulary: Vocabulary,
) -> list[dict[str, Any]]:
    """Every caption with its hits, or with what is wrong."""
    entries, answered = [], iter(rows)
    for index, text in enumerate(texts):
        entry: dict[str, Any] = {"caption": text, "line": index + 1}
        if index in errors:
            entry |= {"error": str(errors[index]), "hits": []}
        else:
            entry |= {"unknown_words": vocabulary.unknown_words(known[index]), "hits": next(answered)}
        entries.append(entry)
    return entries


def _pictures(folder: Path | None) -> PictureFolder:
    """Where the page's pictures lie; fails now, not after the search, if there can't be a page."""
    from ..report.find_pictures import PictureFolder
    from ..report.template import check_installed

    check_installed("--html")
    return PictureFolder(folder)


def _images(file: Path, item: int | None) -> tuple[NDArray[np.floating], list[int] | None]:
    """Features (images, regions, F) to search with, and their numbers in the file; None: it is one image."""
    from ..data.scan import open_array

    array = open_array(file)
    if array.ndim == 2 and array.size:
        array = array[None]
        if item is None:
            return array, None
    if array.ndim != 3 or array.dtype.kind != "f" or not array.size:
        raise DataError(
            f"{file} holds {array.dtype} {array.shape}; expected floats (regions, F) or (images, regions, F)"
        )
    if item is None:
        return array, list(range(len(array)))
    if item >= len(array):
        raise DataError(f"{file} holds {len(array)} images, so --item is 0 to {len(array) - 1}, not {item}")
    return array[item : item + 1], None
