"""One row of the bench, in its own process, for its own threads and peak memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._machine import chosen_threads, peak_memory
from ..accuracy.workload import SEARCH_CAPTIONS, SEARCH_IMAGES, Workload
from ..bundle import open_bundle
from ..errors import CaanError, UnknownWordWarning
from ..runtime import Gallery, Retriever
from ..runtime.backends.contract import GraphTiles, Layout
from ..runtime.backends.native import NativeBackend
from ..runtime.choices import BackendName, Device, Precision
from ..runtime.galleries.in_memory import offsets_of
from ..runtime.scoring.cutters import Choice
from ..runtime.scoring.tuning import Trial, best, is_tunable, try_all
from .exact import exact_scores
from .pair_work import pair_work
from .retrieval import measure_retrieval
from .timing import seconds, sustained_seconds

# All-pairs throughput is measured on this many images × captions: one shard of the research form.
PAIRS_SIDE = 128
_TEXT_QUERIES, _IMAGE_QUERIES = 6, 2  # per round
_ENCODED = 64  # items per round
_CHECKED_SIDE = 16  # images and captions whose scores are checked against float64


@dataclass(frozen=True)
class RowSpec:
    """What one row runs: a backend with a precision on a path, or PyTorch's research form."""

    label: str
    backend: str
    path: Path
    precision: str = "fp32"
    device: str = "cpu"
    research_form: bool = False
    tune_tile: bool = False
    trust_engines: bool = False  # also those not built here
    scored: bool = False  # an interrupted run has kept the data set's scores


@dataclass(frozen=True)
class TunedShape:
    """The choice for one shape, single queries or many captions × many images, and the speeds of all trials."""

    tile_bytes: int
    workers: int | None  # concurrent scorer calls, and threads of each; None if the backend has only one layout
    threads: int | None
    short_of_best: float  # percent slower than the fastest, in trials other than those it was chosen by
    tried: list[tuple[int, Layout | None, float]]  # tile bytes, layout, pairs/s

    @classmethod
    def of(cls, choice: Choice, trials: Sequence[Trial]) -> TunedShape:
        chosen = next(trial for trial in trials if trial.choice == choice)
        workers, threads = choice.layout or (None, None)
        short = 100.0 * (1 - chosen.pairs_per_second / best(trials).pairs_per_second)
        tried = [(*trial.choice, trial.pairs_per_second) for trial in trials]
        return cls(choice.tile_bytes, workers, threads, short, tried)


def serve(
    connection: Connection, spec: RowSpec, load: Callable[[], Workload], threads: int | None, folder: Path
) -> None:
    """Answer the bench's calls: `ready`, then one measurement per message, until None. Runs in the child process.

    The messages are "measure" and, for the runtime's overhead, "retrieval".
    `load` opens the workload here: features stay memory-mapped. `folder` belongs to this row; the caller removes it.
    """
    tempfile.tempdir = str(folder)  # the parent removes it even if this process is killed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore", UnknownWordWarning)  # the same for all rows
    try:
        row = _Row(spec, load(), threads, folder)
        connection.send(row.prepare())
        while (message := connection.recv()) is not None:
            connection.send(row.measure() if message == "measure" else row.retrieval())
    except CaanError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(traceback.format_exc()))


def _end_with_parent() -> None:
    """However the parent ends, this process must not keep running without it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Row:
    def __init__(self, spec: RowSpec, workload: Workload, threads: int | None, folder: Path) -> None:
        self.spec, self.workload = spec, workload
        self.retriever = Retriever.open(
            spec.path,
            cast(BackendName, spec.backend),
            cast(Precision, spec.precision),
            device=cast(Device, spec.device),
            threads=threads,
            trust_engines=spec.trust_engines,
        )
        self.single: Retriever | None = None
        if spec.backend == "native" and chosen_threads(threads) > 1:
            self.single = Retriever.open(spec.path, "native", cast(Precision, spec.precision), device="cpu", threads=1)
        self.folder = folder

    def prepare(self) -> dict[str, Any]:
        """Encode, warm up, score everything if there is a ground truth, and read the peak memory."""
        w = self.workload
        images = self.retriever.encode_images(
            w.features[:SEARCH_IMAGES], w.lengths_of(slice(SEARCH_IMAGES)), folder=self._folder("images")
        )
        self.some_images = images.first(PAIRS_SIDE)
        self.some_captions = self.retriever.encode_captions(w.captions[:PAIRS_SIDE])
        if self.spec.tune_tile:
            from .reference import with_best_tile

            small = images.first(64), self.some_captions.first(64)
            self.retriever = with_best_tile(self.retriever, *small)
        if self.spec.research_form:
            from ..runtime.backends.pytorch import TorchBackend
            from .reference import ResearchScorer

            assert isinstance(self.retriever.backend, TorchBackend)
            self.research = ResearchScorer(self.retriever.backend, self.some_images, self.some_captions)
        self._score_pairs()
        tile_bytes = None if not isinstance(self.retriever.backend.tiles, GraphTiles) else self.retriever.tile_bytes
        work = pair_work(self.retriever.backend.model.config, self.some_images.lengths, self.some_captions.lengths)
        result: dict[str, Any] = {"tile_bytes": tile_bytes, "tuning": self._tune(images), "pair_work": work}
        if self.spec.backend == "native":
            result["score_error"] = self._score_error()
        if w.image_of_caption is not None and not self.spec.research_form and not self.spec.scored:
            gallery = images
            if len(w.features) > SEARCH_IMAGES:
                gallery = self.retriever.encode_images(w.features, w.lengths, folder=self._folder("all-images"))
            result["scores"] = self.retriever.score_matrix(gallery, w.captions, progress=True)
        result["peak_bytes"] = peak_memory()
        round_seconds = max(1.0, seconds(self._score_pairs))
        if not self.spec.research_form:
            self.images = _repeated(images, SEARCH_IMAGES)
            start = time.perf_counter()
            self.captions = self._caption_gallery()
            encoding = time.perf_counter() - start
            text = seconds(lambda: self.retriever.score_matrix(self.images, [w.captions[0]]))
            image = seconds(lambda: self.retriever.score_matrix(images.first(1), self.captions))
            round_seconds *= 1 if self.single is None else 2
            round_seconds += _TEXT_QUERIES * text + _IMAGE_QUERIES * image + encoding * _ENCODED / SEARCH_CAPTIONS
        result["round_seconds"] = round_seconds
        return result

    def measure(self) -> dict[str, Any]:
        """One round: pairs/s of all-pairs scoring; unless research form, latencies in seconds and items/s."""
        w, r = self.workload, self.retriever
        pairs = len(self.some_images) * len(self.some_captions)
        result: dict[str, Any] = {"pairs_per_second": pairs / sustained_seconds(self._score_pairs)}
        if self.spec.research_form:
            return result
        if self.spec.backend == "native":
            result["pairs_per_second_of_one_thread"] = self.single and pairs / sustained_seconds(
                partial(self.single.score_matrix, self.some_images, self.some_captions)
            )
            assert isinstance(r.backend, NativeBackend)
            result["limits"] = r.backend.processor_limits()
        queries = [w.captions[i % len(w.captions)] for i in range(_TEXT_QUERIES)]
        result["text_query"] = [seconds(partial(r.search, q, self.images)) for q in queries]
        features = [w.regions(i % len(w.features)) for i in range(_IMAGE_QUERIES)]
        result["image_query"] = [seconds(partial(r.search, q, self.captions)) for q in features]
        images, texts = np.array(w.features[:_ENCODED]), w.captions[:_ENCODED]
        lengths = w.lengths_of(slice(_ENCODED))
        result["images_per_second"] = len(images) / seconds(lambda: r.encode_images(images, lengths))
        result["captions_per_second"] = len(texts) / seconds(lambda: r.encode_captions(texts))
        return result

    def retrieval(self) -> dict[str, Any]:
        """search_many, the gallery's forms, and batching."""
        return {"retrieval": measure_retrieval(self.retriever, self.spec.path, self.workload)}

    def _score_error(self) -> float:
        """The largest difference of a few pairs' scores from float64."""
        images, captions = self.some_images.first(_CHECKED_SIDE), self.some_captions.first(_CHECKED_SIDE)
        exact = exact_scores(open_bundle(self.spec.path), images, captions)
        return float(np.abs(self.retriever.score_matrix(images, captions) - exact).max())

    def _tune(self, images: Gallery) -> dict[str, TunedShape] | None:
        """The runtime's choice; new trials show how far it is from the best."""
        r = self.retriever
        if not is_tunable(r.backend):
            return None
        chosen = r.tuning or r.tune(images, self.some_captions)
        again = try_all(r.backend, images, self.some_captions)
        return {
            "query": TunedShape.of(best(chosen.query).choice, again.query),
            "pairs": TunedShape.of(best(chosen.pairs).choice, again.pairs),
        }

    def _score_pairs(self) -> NDArray[np.float32]:
        if self.spec.research_form:
            return self.research.score_matrix()
        return self.retriever.score_matrix(self.some_images, self.some_captions)

    def _caption_gallery(self) -> Gallery:
        texts = self.workload.captions
        return self.retriever.encode_captions(
            [texts[i % len(texts)] for i in range(SEARCH_CAPTIONS)], folder=self._folder("captions")
        )

    def _folder(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir()
        return path


def _repeated(gallery: Gallery, count: int) -> Gallery:
    """A gallery of `count` items, repeating these: latency does not depend on the states' values."""
    if len(gallery) >= count:
        return gallery.first(count)
    items = np.arange(count) % len(gallery)
    states = np.concatenate([gallery.states[gallery.offsets[i] : gallery.offsets[i + 1]] for i in items])
    return Gallery(gallery.kind, gallery.encoder, states, offsets_of(gallery.lengths[items]))
