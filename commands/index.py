"""`caan index`, `caan delete` and `caan compact`: create and change galleries of images or captions."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import to_builtins

from .._text import Lines
from . import options
from .inspect_gallery import accuracy_text
from .output import log, show

if TYPE_CHECKING:
    from ..runtime.choices import BackendName, Device, Precision

# Smaller galleries are searched instantly with any tiles.
_WORTH_TUNING = 100


@click.command(epilog=options.EXIT_CODES)
@click.argument("bundle", type=options.PATH)
@click.argument("features", type=options.PATH, required=False)
@options.tokens
@click.option("-o", "--output", type=options.PATH, metavar="GALLERY", required=True, help="The folder to write.")
@click.option("--ids", type=options.PATH, metavar="FILE", help="One id per line and item.")
@click.option(
    "--lengths",
    type=options.PATH,
    metavar="FILE",
    help="Regions of each image: .npy of (images,) integers.  [default: X_lengths.npy beside X_ims.npy]",
)
@click.option("--dtype", help="float16, float32, bfloat16 or int8 states.  [default: float16]")
@click.option("--compact", is_flag=True, help="Keep a fifth of the states; the rest is recomputed per query.")
@click.option("--append", is_flag=True, help="Add to an existing gallery.")
@click.option("--no-sketches", is_flag=True, help="Write no sketches, though BUNDLE has a sketch.")
@click.option("--no-measure", is_flag=True, help="Do not measure the recall of searches with them.")
@options.overwrite
@click.option(
    "--data", type=options.PATH, metavar="DIR", help="A data set on which bfloat16 or int8 states must keep R@K."
)
@options.split
@options.limit
@click.option("--keep-failed", is_flag=True, help="Write states that miss their accuracy gate, marked as failed.")
@options.backend
@options.precision
@options.device
@options.threads
@options.trust_engines
def index(
    bundle: Path,
    features: Path | None,
    tokens: str | None,
    output: Path,
    ids: Path | None,
    lengths: Path | None,
    dtype: str | None,
    compact: bool,
    append: bool,
    no_sketches: bool,
    no_measure: bool,
    overwrite: bool,
    data: Path | None,
    split: str,
    limit: int | None,
    keep_failed: bool,
    backend: BackendName,
    precision: Precision,
    device: Device,
    threads: int | None,
    trust_engines: bool,
) -> None:
    """Encode the images of FEATURES with BUNDLE into a searchable gallery.

    FEATURES is an .npy file (images, regions, F); a .txt file holds captions, one per line, for a gallery to search
    with images, and so does --tokens, in FEATURES' place. After an interruption, rerun the same command to resume.
    """
    from ..accuracy.states_gate import gate_states
    from ..accuracy.workload import check_dimension, data_workload
    from ..data.scan import lengths_beside, open_features, open_lengths, read_captions, read_ids
    from ..data.tokens import read_tokens
    from ..runtime import Retriever
    from ..runtime.galleries.rows import SMALL_DTYPES
    from ..runtime.index import Captions, Images, IndexOptions, Source, index_items
    from ..runtime.scoring.tuning import is_due, is_tunable

    is_small = dtype in SMALL_DTYPES
    if data is not None and (append or not is_small):
        raise click.UsageError("--data gates a new gallery's bfloat16 or int8 states; leave it out")
    if append and overwrite:
        raise click.UsageError("--append adds to a gallery, --overwrite replaces it; give one of them")
    if (features is None) == (tokens is None):
        raise click.UsageError("give exactly one of FEATURES and --tokens FILE")
    is_text = features is None or features.suffix == ".txt"
    if is_text and lengths is not None:
        raise click.UsageError("--lengths is for the regions of images, not for captions")
    captions, array = Lines([], ""), None
    if features is None:
        captions = read_tokens(Path(str(tokens)))
    elif is_text:
        captions = read_captions(features)
    else:
        array = open_features(features)
        lengths = lengths or lengths_beside(features)
    names = None if ids is None else read_ids(ids)
    regions = None if lengths is None else open_lengths(lengths)
    retriever = Retriever.open(bundle, backend, precision, device=device, threads=threads, trust_engines=trust_engines)
    source: Source = Captions(retriever, captions) if array is None else Images(retriever, array, regions)
    gate = None
    if data is not None and dtype in SMALL_DTYPES:
        workload = data_workload(data, split, limit)
        check_dimension(workload.features, retriever.backend.model.config, data)
        gate = partial(
            gate_states, retriever, workload, source.kind, dtype, compact=compact, keep_failed=keep_failed, progress=log
        )
    chosen = IndexOptions(
        dtype, compact, overwrite, append, progress=True, gate=gate, sketches=not no_sketches, measure=not no_measure
    )
    try:
        gallery = index_items(retriever, bundle, source, output, names, chosen)
    except KeyboardInterrupt:
        log("interrupted; rerun the same command to resume")
        raise
    items = "captions" if is_text else "images"
    more = f"{len(source.lengths)} {items} more, " if append else ""
    show(f"{output}: {more}{len(gallery.live)} {items}{' in all' if append else ''}")
    if is_small and not append:
        assert gallery.origin is not None
        show(f"{dtype} states: {accuracy_text(to_builtins(gallery.origin.description.accuracy))}")
    is_worth = gallery.kind == "image" and not gallery.compact and len(gallery.live) >= _WORTH_TUNING
    if is_worth and is_due(retriever.tuning) and is_tunable(retriever.backend):
        log("finding the fastest tiles and threads on this machine; kept for searches")
        try:
            retriever.tune(gallery)
        except KeyboardInterrupt:
            log(f"skipped; {output} is complete")


@click.command(epilog=options.EXIT_CODES)
@click.argument("gallery", type=options.PATH)
@click.argument("items", nargs=-1, metavar="ITEM…")
@click.option("--ids", type=options.PATH, metavar="FILE", help="Items to delete, one per line.")
def delete(gallery: Path, items: tuple[str, ...], ids: Path | None) -> None:
    """Delete ITEMs from GALLERY, by id, or by index where it has no ids.

    The other items keep their index. `caan compact` frees the deleted items' disk space.
    """
    from ..data.scan import read_ids
    from ..runtime.index import delete_items

    names = [*items, *(read_ids(ids) if ids is not None else [])]
    if not names:
        raise click.UsageError("name the items to delete, or a file of them: --ids FILE")
    left = delete_items(gallery, names)
    show(f"{gallery}: {left} items are left")
    if left == 0:
        log("the gallery is empty now")


@click.command(epilog=options.EXIT_CODES)
@click.argument("gallery", type=options.PATH)
def compact(gallery: Path) -> None:
    """Free the disk space of GALLERY's deleted items.

    Ids stay; indices are renumbered without gaps. Running searches finish in the old gallery.
    """
    from ..runtime.galleries.changes import compact_items
    from .inspect_text import size_of

    freed = compact_items(gallery)
    show(f"{gallery}: freed {size_of(freed)}" if freed else f"{gallery}: no deleted items, nothing to do")
