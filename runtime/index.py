"""Galleries on disk: encode into one, append to one, find the bundle that made one."""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from .._cache import is_of_others
from .._files import resumable_folder
from .._progress import progress_bar
from ..bundle import MANIFEST, graph_file, read_manifest, state_widths
from ..data.mapped import read_rows
from ..errors import BundleError, DataError, InputError
from .backends.contract import Backend
from .encoding import CAPTIONS_PER_CALL, IMAGES_PER_CALL, Encoded, encode_images, encode_tokens, place
from .galleries.changes import changing
from .galleries.changes import delete_items as delete_items
from .galleries.description import Accuracy, Description, Kind, SketchRecord
from .galleries.folder import DESCRIPTION, Contents, read, read_description, write_description
from .galleries.gallery import Gallery, Items
from .galleries.in_memory import offsets_of, relative_to
from .galleries.rows import DTYPES, SMALL_DTYPES, encoded
from .galleries.writer import GalleryWriter, Input
from .gather import matrix_widths
from .inputs import check_features, image_lengths, tokenize
from .lists import Caption, ids_of, is_features
from .sketches.curve import PAIRS
from .sketches.existing import measured
from .sketches.kernels import Scanner
from .sketches.sketcher import Sketcher

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexOptions:
    """How a gallery is written: the states' dtype; V alone (compact); replace or append to an existing gallery."""

    dtype: str | None = None  # one of DTYPES; float16 by default
    compact: bool = False
    overwrite: bool = False
    append: bool = False
    progress: bool = False
    sketches: bool = True  # if the bundle has a sketch
    measure: bool = True  # the recall of searches with them; an append does not
    # Measures what a new gallery's bfloat16 or int8 states cost, once nothing else keeps it from being written.
    gate: Callable[[], Accuracy] | None = None


class Model(Protocol):
    """The part of a Retriever that encoding needs."""

    backend: Backend


class Source(Protocol):
    """Items of one kind to encode, in order."""

    kind: Kind
    lengths: NDArray[np.int64]  # (items,) rows per item
    per_block: int  # items

    def crc32(self, start: int, stop: int) -> int:
        """CRC of everything these items' states depend on, except the model."""

    def encode(self, backend: Backend, start: int, stop: int) -> Iterator[Encoded]:
        """States of these items; positions are relative to `start`."""


class Images:
    """Region features (N, R, F), possibly memory-mapped; lengths (N,) regions per image, all R by default."""

    kind: Kind = "image"
    per_block = 4 * IMAGES_PER_CALL

    def __init__(self, retriever: Model, features: NDArray[np.floating], lengths: Any = None) -> None:
        backend = retriever.backend
        check_features(features, backend.model.config["region_dim"], backend.model.limits["regions"])
        self.lengths = image_lengths(features, lengths)
        self._features = features
        self._read: tuple[int, int, NDArray[np.floating]] | None = None

    def crc32(self, start: int, stop: int) -> int:
        features = self._block(start, stop)
        return zlib.crc32(features.data, zlib.crc32(f"{features.dtype} {self.lengths[start:stop].tolist()}".encode()))

    def encode(self, backend: Backend, start: int, stop: int) -> Iterator[Encoded]:
        return encode_images(backend, self._block(start, stop))

    def _block(self, start: int, stop: int) -> NDArray[np.floating]:
        """Read once, so that the CRC and the states come from the same bytes even if the file changes in between."""
        if self._read is None or self._read[:2] != (start, stop):
            self._read = start, stop, np.ascontiguousarray(read_rows(self._features, start, stop))
        return self._read[2]


class Captions:
    """Texts or token lists."""

    kind: Kind = "text"
    per_block = 4 * CAPTIONS_PER_CALL

    def __init__(self, retriever: Model, captions: Sequence[Caption], stacklevel: int = 4) -> None:
        backend = retriever.backend
        limit = backend.model.limits["words"]
        self._tokens, self.lengths = tokenize(captions, backend.model.vocabulary, limit, stacklevel=stacklevel)

    def crc32(self, start: int, stop: int) -> int:
        return zlib.crc32(json.dumps(self._tokens[start:stop]).encode())

    def encode(self, backend: Backend, start: int, stop: int) -> Iterator[Encoded]:
        return encode_tokens(backend, self._tokens[start:stop], self.lengths[start:stop])


def source_of(retriever: Model, items: Items, lengths: Any = None, stacklevel: int = 4) -> Source:
    """A Source of features (N, R, F) with `lengths` (N,) regions each, or of captions. Raises as these classes do."""
    if is_features(items):
        return Images(retriever, cast(NDArray[np.floating], items), lengths)
    if lengths is not None:
        raise InputError("lengths is for the regions of images; captions have their own")
    return Captions(retriever, cast(Sequence[Caption], items), stacklevel + 1)


def index_items(
    retriever: Model,
    bundle: Path | None,
    source: Source,
    target: Path,
    ids: Sequence[str] | None = None,
    options: IndexOptions = IndexOptions(),
) -> Gallery:
    """Encode images or captions into the gallery folder `target` and open it memory-mapped.

    Written to `target.partial` and moved into place. If interrupted, the same call resumes and produces identical
    files. An append grows the gallery in place; readers see all of it or nothing.

    Raises DataError as `Retriever.encode_images` and for duplicate ids, InputError for conflicting options, OutputError
    if the target exists or can't be written, BundleError if it can't be appended to, or if the bundle can't expand a
    compact gallery, and as `options.gate`. CaanWarning if another job's unfinished work is replaced.
    """
    ids = _unique(ids, len(source.lengths))
    requested = _new(retriever, bundle, source, target, options)
    opening = changing(target) if options.append else _beside(target, options.overwrite)
    with opening as (folder, alone):
        existing = read(folder) if options.append else None
        if existing is not None:
            _check_append(existing.description, requested, options, target, ids)
        if existing is not None:
            base = existing.description
        else:
            base = requested if options.gate is None else structs.replace(requested, accuracy=options.gate())
        sketcher = _sketcher(retriever, base, target, is_new=existing is None, options=options)
        if existing is None and sketcher is not None:
            base = structs.replace(base, sketch=SketchRecord(sketcher.identity, sketcher.columns))
        with GalleryWriter(folder, base, alone=alone) as writer:
            if existing is None or not (writer.is_published(_inputs(source)) and _same_ids(existing.ids, ids)):
                if existing is not None:
                    _check_new(ids, existing)
                _encode(retriever.backend, source, writer, ids, options.progress, sketcher)
                writer.publish(source.lengths, ids)
        if existing is None and sketcher is not None and options.measure:
            _measure(retriever, sketcher, folder, options)
    _log.info("%s: %s %d %ss", target, "appended" if options.append else "wrote", len(source.lengths), source.kind)
    return Gallery.open(target)


def bundle_of(gallery: Gallery, folder: Path) -> Path:
    """Path of the bundle that made a gallery, as recorded at that time.

    Raises BundleError if it is no longer there, or if gallery or bundle belong to another user: another user's file
    must not choose which bundle is opened.
    """
    path = Path(os.path.normpath(folder.resolve() / (gallery.bundle or "")))
    if gallery.bundle is None or not path.is_dir():
        raise BundleError(f"the bundle of {folder} is no longer at {path}; name it with --bundle")
    for file in (folder / DESCRIPTION, path / MANIFEST):
        if is_of_others(file):
            raise BundleError(
                f"{file} belongs to another user, so {folder} does not choose the bundle; name it with --bundle"
            )
    return path


def precision_of(gallery: Gallery, bundle: Path) -> str | None:
    """The bundle's precision whose encoder made a gallery, according to the manifest; None if none did.

    Reads no other file of the bundle; opening it checks them. Raises as `read_manifest`.
    """
    manifest = read_manifest(bundle)
    for precision in manifest["precisions"]:
        entry = manifest["files"].get(graph_file(f"{gallery.kind}_encoder", precision))
        if isinstance(entry, dict) and entry.get("sha256") == gallery.encoder:
            return str(precision)
    return None


def _new(retriever: Model, bundle: Path | None, source: Source, target: Path, options: IndexOptions) -> Description:
    """The description of a new gallery, without items."""
    backend, config = retriever.backend, retriever.backend.model.config
    if options.compact and source.kind != "image":
        raise InputError("--compact is for galleries of images; captions' states are kept whole")
    if options.compact:  # refuse a bundle without the expander now, not at the first search
        backend.expand_regions(np.zeros((1, 1, config["embed_dim"]), np.float32))
    dtype = options.dtype or "float16"
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype '{dtype}'; known: {', '.join(DTYPES)}")
    if dtype == "float32" and backend.state_dtype == np.float16:
        raise InputError(f"the states of precision {backend.precision} are float16; leave --dtype float32 out")
    return Description(
        kind=source.kind,
        encoder=backend.model.encoders[source.kind],
        dtype=dtype,
        columns=config["embed_dim"] if options.compact else state_widths(config)[source.kind],
        compact=options.compact,
        bundle=None if bundle is None else relative_to(bundle.resolve(), target.resolve()),
        accuracy=Accuracy("ungated") if dtype in SMALL_DTYPES else None,
    )


def _check_append(
    base: Description, requested: Description, options: IndexOptions, target: Path, ids: Sequence[str] | None
) -> None:
    """Raise unless the request fits the existing gallery."""
    if base.kind != requested.kind:
        raise DataError(f"{target} holds {base.kind} states, not {requested.kind}; name another gallery with -o")
    if base.encoder != requested.encoder:
        raise BundleError(f"{target} was made with another model or precision; name that bundle, or index it again")
    if (options.dtype or base.dtype) != base.dtype or (options.compact and not base.compact):
        kept = f"{base.dtype}{', compact' if base.compact else ''}"
        raise InputError(f"{target} is {kept}, and appended items must match; leave out --dtype and --compact")
    if (base.ids is None) != (ids is None):
        remedy = "leave --ids out" if base.ids is None else "give ids for the new items too: --ids FILE"
        raise DataError(f"{target} has {'no ' if base.ids is None else ''}ids; {remedy}")


def _unique(ids: Sequence[str] | None, items: int) -> list[str] | None:
    """The ids as plain strings. Raises DataError unless there is one unique string per item."""
    names = ids_of(ids, items)
    if names is not None and len(set(names)) < len(names):
        name, _ = Counter(names).most_common(1)[0]
        raise DataError(f"the id {name!r:.80} occurs twice; ids must be unique")
    return names


def _check_new(ids: Sequence[str] | None, existing: Contents) -> None:
    """Raise DataError for an id already in the gallery; ids of deleted items may be reused."""
    if ids is None or existing.ids is None:
        return
    taken = {existing.ids[number] for number in existing.live.tolist()}
    for name in ids:
        if name in taken:
            raise DataError(f"the id {name!r:.80} is in the gallery already; ids must be unique")


def _same_ids(existing: Sequence[str] | None, ids: Sequence[str] | None) -> bool:
    """Whether these are the ids of the gallery's last items."""
    return ids is None or existing is None or list(ids) == existing[-len(ids) :]


def _inputs(source: Source) -> Iterator[Input]:
    """The input of each block."""
    for start in range(0, len(source.lengths), source.per_block):
        stop = min(start + source.per_block, len(source.lengths))
        yield Input(stop - start, int(source.lengths[start:stop].sum()), source.crc32(start, stop))


def _sketcher(
    retriever: Model, base: Description, target: Path, *, is_new: bool, options: IndexOptions
) -> Sketcher | None:
    """What sketches the new items; None for a gallery without sketches.

    Raises BundleError for an append to a gallery with another model's sketches.
    """
    source = retriever.backend.model.sketch
    if is_new:
        return Sketcher(retriever.backend, source) if source is not None and options.sketches else None
    if base.sketch is None:
        return None
    if source is None or source.identity != base.sketch.model:
        raise BundleError(
            f"the sketches of {target} were made with another model or sketch, so these items can't be appended; name"
            f" that bundle, or make the sketches again first: caan sketch {target} --bundle BUNDLE"
        )
    return Sketcher(retriever.backend, source)


def _measure(retriever: Model, sketcher: Sketcher, folder: Path, options: IndexOptions) -> None:
    """Measure the recall of the gallery in a working folder, before it is moved into place."""
    gallery, backend = Gallery.open(folder), retriever.backend
    curve = measured(sketcher, Scanner(None), backend, gallery, PAIRS, options.progress)
    write_description(folder, structs.replace(read_description(folder), curve=curve))


def _encode(
    backend: Backend,
    source: Source,
    writer: GalleryWriter,
    ids: Sequence[str] | None,
    progress: bool,
    sketcher: Sketcher | None,
) -> None:
    """Write every block that an interrupted run has not already written."""
    description = writer.base
    widths = matrix_widths(backend, source.kind, compact=description.compact)
    with progress_bar(len(source.lengths), f"indexing {source.kind}s", source.kind, progress) as bar:
        start = 0
        for made_from in _inputs(source):
            stop = start + made_from.items
            if not writer.keep(made_from):
                offsets = offsets_of(source.lengths[start:stop])
                is_small = description.dtype in SMALL_DTYPES
                dtype = "float32" if is_small else description.dtype
                states = np.empty((made_from.rows, description.columns), dtype)
                names = None if ids is None else ids[start:stop]
                for items in source.encode(backend, start, stop):
                    place(states, offsets, items, source.kind, names, start)
                stored = encoded(states, description.dtype, widths) if is_small else states
                sketches = None
                if sketcher is not None:
                    block = Gallery(source.kind, description.encoder, stored, offsets, compact=description.compact)
                    sketches = sketcher.sketches(block)
                writer.add(stored, made_from, sketches)
            bar.update(made_from.items)
            start = stop


@contextmanager
def _beside(target: Path, overwrite: bool) -> Iterator[tuple[Path, bool]]:
    """A working folder beside the target, with no other process writing to it."""
    with resumable_folder(target, overwrite=overwrite, kind="gallery") as folder:
        yield folder, True
