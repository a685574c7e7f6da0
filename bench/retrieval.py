"""The runtime's overhead over the backend's calls, and the cost of each form of a gallery: the rows of --retrieval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from .._files import temporary_folder
from ..accuracy.workload import Workload
from ..runtime import Gallery, Retriever
from ..runtime.backends.native import NativeBackend
from ..runtime.index import Images, IndexOptions, index_items
from ..runtime.scoring.tiles import tiles_of
from .overload import Overload, measure_overload
from .serving import CALLERS, FEW_IMAGES, ServingSpeed, measure_serving
from .timing import seconds

# Captions and images of search_many, compared with tiles already gathered.
MANY_CAPTIONS, MANY_IMAGES = 1000, 1000
_READY = 64  # images and captions of the gathered tiles
_ROUNDS, _QUERY_ROUNDS = 3, 9
_IN_MEMORY, _REFERENCE = "in memory", "in memory, onnxruntime"
_TOGETHER = 128  # captions of one search_many per form of gallery


@dataclass(frozen=True)
class Form:
    """One form of the same gallery, searched with single captions and with many at once."""

    name: str
    bytes_per_image: float
    seconds_alone: float  # median of single queries
    seconds_together: float  # per query, of _TOGETHER at once
    images_per_second: float | None  # indexed; None for a form that is not on disk


@dataclass(frozen=True)
class RetrievalSpeed:
    """Result of `measure_retrieval`."""

    images: int
    captions: int
    share_of_tiles: float  # pairs/s of search_many ÷ the backend's on gathered tiles, median of the rounds
    pairs_per_second: float  # of search_many
    forms: tuple[Form, ...]
    serving: ServingSpeed
    overload: Overload

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_retrieval(
    retriever: Retriever, bundle: Path, workload: Workload, progress: Callable[[str], None] = lambda message: None
) -> RetrievalSpeed:
    """Measure search_many, the gallery's forms and batching with a workload's images and captions, repeated if few."""
    repeated = np.arange(MANY_IMAGES) % len(workload.features)
    images = Images(retriever, np.asarray(workload.features[repeated]), workload.lengths_of(repeated))
    captions = [workload.captions[i % len(workload.captions)] for i in range(MANY_CAPTIONS)]
    with temporary_folder("retrieval", "the galleries") as scratch:
        progress("indexing the gallery in each of its forms")
        forms = _forms(retriever, bundle, images, scratch)
        gallery = forms[_IN_MEMORY][0]
        progress("searching each form")
        measured = _measure_forms(retriever, _reference_of(retriever, bundle), forms, captions)
        progress(f"searching {MANY_CAPTIONS:,} captions in {MANY_IMAGES:,} images")
        share, speed = _against_tiles(retriever, gallery, captions)
        progress("batching concurrent callers")
        serving = measure_serving(retriever, gallery, gallery.first(FEW_IMAGES), captions[:CALLERS])
        progress("overloading it")
        overload = measure_overload(retriever, gallery, captions)
    return RetrievalSpeed(len(gallery), len(captions), share, speed, measured, serving, overload)


def _forms(retriever: Retriever, bundle: Path, images: Images, folder: Path) -> dict[str, tuple[Gallery, float | None]]:
    """Name → the gallery, and images/s of writing it."""
    options = {name: IndexOptions(name) for name in ("float16", "bfloat16", "int8")}
    options |= {f"{name}, compact": IndexOptions(name, compact=True) for name in ("float16", "int8")}
    if retriever.backend.state_dtype == np.float32:
        options = {"float32": IndexOptions("float32"), **options}
    galleries: dict[str, tuple[Gallery, float | None]] = {}
    for name, chosen in options.items():
        write = partial(index_items, retriever, bundle, images, folder / name, None, chosen)
        took = seconds(write)
        galleries[name] = Gallery.open(folder / name), len(images.lengths) / took
    exact = "float32" if "float32" in galleries else "float16"
    return {_IN_MEMORY: (retriever.load(galleries[exact][0]), None), **galleries}


def _reference_of(retriever: Retriever, bundle: Path) -> Retriever | None:
    """ONNX Runtime in FP32 on as many threads, to compare `native` with; None for other backends."""
    backend = retriever.backend
    if not isinstance(backend, NativeBackend) or backend.precision != "fp32":
        return None
    return Retriever.open(bundle, "onnxruntime", device="cpu", threads=backend.threads)


def _measure_forms(
    retriever: Retriever,
    reference: Retriever | None,
    forms: dict[str, tuple[Gallery, float | None]],
    captions: Sequence[Any],
) -> tuple[Form, ...]:
    """Alternate between the forms; a first query of each, which reads and verifies its file, is not counted."""
    searched = dict.fromkeys(forms, retriever)
    if reference is not None:
        searched[_REFERENCE], forms = reference, {**forms, _REFERENCE: (forms[_IN_MEMORY][0], None)}
    alone: dict[str, list[float]] = {name: [] for name in forms}
    together: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(_QUERY_ROUNDS + 1):
        for name, (gallery, _) in forms.items():
            alone[name].append(seconds(partial(searched[name].search, captions[number], gallery)))
    for _ in range(_ROUNDS):
        for name, (gallery, _) in forms.items():
            took = seconds(partial(searched[name].search_many, captions[:_TOGETHER], gallery))
            together[name].append(took / _TOGETHER)
    return tuple(
        Form(
            name,
            gallery.states.nbytes / len(gallery),
            float(np.median(alone[name][1:])),
            float(np.median(together[name])),
            indexed,
        )
        for name, (gallery, indexed) in forms.items()
    )


def _against_tiles(retriever: Retriever, gallery: Gallery, captions: Sequence[Any]) -> tuple[float, float]:
    """(search_many's pairs/s ÷ the backend's, median of alternating rounds; search_many's pairs/s)."""
    texts = retriever.encode_captions(captions)
    choice = retriever.choice(len(gallery), len(texts))
    ready = list(tiles_of(retriever.backend, choice, gallery.first(_READY), texts.first(_READY)))
    times = -(-len(gallery) * len(texts) // (_READY * _READY))

    def score_ready() -> None:
        for _ in retriever.backend.score_tiles(chain.from_iterable(repeat(ready, times)), choice.layout):
            pass

    pairs, ready_pairs = len(gallery) * len(texts), times * _READY * _READY
    shares, speeds = [], []
    for _ in range(_ROUNDS):
        speeds.append(pairs / seconds(partial(retriever.search_many, texts, gallery)))
        shares.append(speeds[-1] * seconds(score_ready) / ready_pairs)
    return float(np.median(shares)), float(np.median(speeds))
