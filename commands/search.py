"""`caan search`: search a gallery of images with captions, or a gallery of captions with images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
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
    from ..runtime import Gallery
    from ..runtime.choices import BackendName, Device, Precision
    from ..runtime.hits import Hits
    from ..runtime.lists import Caption, TokenizedCaption


@click.command(epilog=f"{options.EXIT_CODES} With --captions and --tokens, 1 if any caption failed.")
@click.argument("gallery", type=options.PATH)
@click.argument("caption", required=False)
@click.option("--captions", metavar="FILE", help="Many captions instead, one per line; - reads stdin.")
@options.tokens
@click.option(
    "--features",
    type=options.PATH,
    metavar="FILE.npy",
    help="Search with images: (regions, F) or (images, regions, F).",
)
@click.option("--item", type=click.IntRange(min=0), metavar="N", help="Only image N of --features, from 0.")
@click.option("-k", type=click.IntRange(min=1), help="Number of hits.  [default: 10, or all if fewer]")
@click.option("--min-score", type=float, metavar="SCORE", help="Omit hits with lower scores.")
@click.option(
    "--recall",
    type=float,
    metavar="SHARE",
    help="Score only as many items as it takes to find this share of the best, such as 0.99.  [default: 1, exact]",
)
@click.option(
    "--candidates", type=click.IntRange(min=1), metavar="N", help="Score only the N items whose sketches fit best."
)
@click.option("--bundle", type=options.PATH, metavar="BUNDLE", help="[default: the one the gallery was made with]")
@click.option(
    "--html", type=options.PATH, metavar="FILE.html", help="Write a page, with pictures if ids name picture files."
)
@click.option("--pictures", type=options.PATH, metavar="DIR", help="Folder of the pictures.  [default: current folder]")
@click.option("--export", type=options.PATH, metavar="FILE", help="Also write the hits there: .csv or .npy.")
@options.overwrite
@options.backend
@click.option("--precision", help="A precision of the bundle, or bf16.  [default: the gallery's]")
@options.device
@options.threads
@options.trust_engines
@options.as_json
def search(
    gallery: Path,
    caption: str | None,
    captions: str | None,
    tokens: str | None,
    features: Path | None,
    item: int | None,
    k: int | None,
    min_score: float | None,
    recall: float | None,
    candidates: int | None,
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
    """Rank the images of GALLERY for CAPTION, or for each of --captions or --tokens.

    In a gallery of captions, search with the region features of images instead: --features FILE.npy.

    With --json, the output for CAPTION or one image is a list of hits; for --captions and --tokens a list of captions
    with their lines, hits and unknown words; for several images a list of images with their hits. An invalid line has
    an "error"; the others are answered.
    """
    from .._files import atomic_file, check_file_target, temporary_folder
    from ..runtime import Gallery, Retriever
    from ..runtime.index import bundle_of, precision_of

    if sum(given is not None for given in (caption, captions, tokens, features)) != 1:
        raise click.UsageError("give exactly one of CAPTION, --captions FILE, --tokens FILE and --features FILE")
    if item is not None and features is None:
        raise click.UsageError("--item picks an image of --features; add --features FILE.npy")
    if html is not None and features is not None:
        raise click.UsageError("--html is for captions, not for --features")
    if pictures is not None and html is None:
        raise click.UsageError("--pictures is for the HTML page; add --html FILE.html")
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
        chosen = precision or (precision_of(opened, path) if path.is_dir() else None) or "fp32"
        return Retriever.open(
            path,
            backend,
            cast("Precision", chosen),
            device=device,
            threads=threads,
            trust_engines=trust_engines,
        )

    if features is not None:
        images, lengths, numbers = _images(features, item)
        with temporary_folder("queries", "the images' states") as scratch:
            model = retriever()
            queries = model.encode_images(images, lengths, folder=scratch)
            hit_lists = model.search_many(queries, opened, k, min_score=min_score, recall=recall, candidates=candidates)
        show_images(hit_lists, numbers, opened, export, as_json=as_json, aside=is_printed(export))
        _say_how(hit_lists, opened)
        return
    given: Sequence[Caption] = [caption] if caption is not None else _read(captions, tokens)
    texts = _texts(given)
    folder = _pictures(pictures) if html is not None else None
    # Open before the search, in case it can't be written.
    with atomic_file(html) if html is not None else nullcontext() as target:
        model = retriever()
        known, errors = _tokenized(given, model.backend.model.vocabulary)
        valid = _without(texts, errors)
        if not valid and (caption is not None or html is not None):
            raise errors[0]
        hit_lists = []
        if valid:
            words = list(known.values())
            hit_lists = model.search_many(
                valid.replaced(words) if isinstance(valid, Lines) else words,
                opened,
                k,
                min_score=min_score,
                recall=recall,
                candidates=candidates,
            )
        if target is not None and folder is not None:
            from ..report.search_page import search_page

            target.write_text(search_page(gallery.resolve().name, valid, hit_lists, opened, folder), encoding="utf-8")
    if export is not None:
        write_hits(export, zip((n for n in range(len(texts)) if n not in errors), hit_lists, strict=True), opened.ids)
    rows = [[row(hit, opened) for hit in hits] for hits in hit_lists]
    aside = is_printed(html) or is_printed(export)
    if caption is not None:
        show_one(rows[0], as_json, aside)
        _say_how(hit_lists, opened)
        return
    if as_json:
        show_json(_entries(texts, errors, rows, known, model.backend.model.vocabulary), err=aside)
    elif rows:
        tables = (f"{visible(text)}\n{table(hits)}" for text, hits in zip(valid, rows, strict=True))
        show("\n\n".join(tables), err=aside)
    _say_how(hit_lists, opened)
    if errors:
        assert isinstance(texts, Lines)
        for index, error in errors.items():
            log(f"{texts.place(index)}: {error}")
        raise CaanError(f"{len(errors)} of {len(texts)} captions failed; see the lines above")


def _say_how(hit_lists: Sequence[Hits], gallery: Gallery) -> None:
    """To standard error: how many items were scored, and the measured recall of that number."""
    if not hit_lists or hit_lists[0].candidates is None:
        return
    first = hit_lists[0]
    text = f"scored the best {first.candidates:,} of {len(gallery.live):,} by their sketches"
    if first.recall is not None:
        text += (
            f"; recall {first.recall.value:.1%} when measured, 95 % interval {first.recall.low:.1%} to"
            f" {first.recall.high:.1%}"
        )
    log(text)


def _read(captions: str | None, tokens: str | None) -> Lines:
    """The captions of the file --captions, or their tokens from --tokens; - is standard input."""
    from ..data.scan import captions_of, read_text_file
    from ..data.tokens import tokens_of

    file = captions if captions is not None else str(tokens)
    content, name = (_standard_input(), "standard input") if file == "-" else (read_text_file(Path(file)), file)
    return captions_of(content, name, may_lack=True) if captions is not None else tokens_of(content, name)


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise DataError("standard input is closed; name a file of captions, one per line")
    return sys.stdin.buffer.read()


def _texts(queries: Sequence[Caption]) -> list[str]:
    """Captions to print; a `Lines` keeps its line numbers."""
    texts = [query if isinstance(query, str) else " ".join(query) for query in queries]
    return queries.replaced(texts) if isinstance(queries, Lines) else texts


def _tokenized(
    queries: Sequence[Caption], vocabulary: Vocabulary
) -> tuple[dict[int, TokenizedCaption], dict[int, DataError]]:
    """Valid captions, tokenized, and the errors of the others, both by index into `queries`."""
    from ..runtime.inputs import known_caption

    known, errors = {}, {}
    for index, query in enumerate(queries):
        try:
            known[index] = known_caption(query, vocabulary)
        except DataError as error:
            errors[index] = error
    return known, errors


def _without(texts: list[str], errors: dict[int, DataError]) -> list[str]:
    """The captions without errors; a `Lines` keeps its line numbers."""
    indices = [index for index in range(len(texts)) if index not in errors]
    return texts.part(indices) if isinstance(texts, Lines) else [texts[index] for index in indices]


def _entries(
    texts: list[str],
    errors: dict[int, DataError],
    rows: list[list[dict[str, Any]]],
    known: dict[int, TokenizedCaption],
    vocabulary: Vocabulary,
) -> list[dict[str, Any]]:
    """Every caption with its hits or its error."""
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
    """The page's pictures; fails early, before the search, if no page can be written."""
    from ..report.find_pictures import PictureFolder
    from ..report.template import check_installed

    check_installed("--html")
    return PictureFolder(folder)


def _images(file: Path, item: int | None) -> tuple[NDArray[np.floating], NDArray[np.int64], list[int] | None]:
    """Images to search with: features (n, R, F), regions (n,), and indices in the file, None for a single image."""
    from ..data.scan import lengths_beside, open_array, open_lengths
    from ..runtime.inputs import image_lengths

    array = open_array(file)
    if array.ndim == 2 and array.size:
        array = array[None]
        if item is None:
            return array, image_lengths(array, None), None
    if array.ndim != 3 or array.dtype.kind != "f" or not array.size:
        raise DataError(
            f"{file} holds {array.dtype} {array.shape}; expected floats (regions, F) or (images, regions, F)"
        )
    if item is not None and item >= len(array):
        raise DataError(f"{file} holds {len(array)} images, so --item is 0 to {len(array) - 1}, not {item}")
    beside = lengths_beside(file)
    lengths = image_lengths(array, None if beside is None else open_lengths(beside))
    if item is None:
        return array, lengths, list(range(len(array)))
    return array[item : item + 1], lengths[item : item + 1], None
