"""Run the bench: every row in its own process, measured in turns, so that a drift of the machine hits all alike."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import temporary_folder
from .._machine import describe_machine, has_nvidia_driver
from ..bundle import VOCABULARY, Bundle, open_bundle
from ..data.vocabulary import SPECIAL_TOKENS, Vocabulary
from ..errors import CaanError, CheckpointError
from ..metrics import Parity, RetrievalMetrics, parity, retrieval_metrics
from ..runtime.backend import BF16
from ..runtime.native_backend import PRECISIONS as NATIVE_PRECISIONS
from ..runtime.triton.backend import PRECISIONS as TRITON_PRECISIONS
from .gate import complete_engine_records
from .native_gains import native_gains
from .own_process import away_from_here
from .reference_scores import checkpoint_of
from .retrieval import RetrievalSpeed
from .roofline import PairWork, rooflines
from .worker import RowSpec, TunedShape, serve
from .workload import Workload, check_dimension, data_workload, random_workload

DEFAULT_ROUNDS = 5


@dataclass
class Row:
    """One row. A row that could not run has a reason and no numbers. Seconds; medians and percentiles over rounds."""

    spec: RowSpec
    reason: str | None = None
    error: CaanError | None = None
    pairs_per_second: float | None = None
    text_query: dict[str, float] | None = None  # p50, p95, p99 of one caption over 1,000 images
    image_query: dict[str, float] | None = None  # p50, p95, p99 of one image over 5,000 captions
    images_per_second: float | None = None
    captions_per_second: float | None = None
    peak_bytes: int | None = None
    tile_bytes: int | None = None
    tuning: dict[str, TunedShape] | None = None  # "query" and "pairs"
    pair_work: PairWork | None = None
    score_error: float | None = None  # of the compiled scorer: largest difference from float64
    retrieval: RetrievalSpeed | None = None
    metrics: RetrievalMetrics | None = None
    parity: Parity | None = None
    scores: NDArray[np.float32] | None = None  # (images, captions)
    rounds: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As "onnxruntime fp16 cuda"; the CPU goes without saying."""
        device = "" if self.spec.device == "cpu" else f" {self.spec.device}"
        return f"{self.spec.label} {self.spec.precision}{device}"

    def as_dict(self) -> dict[str, Any]:
        s = self.spec
        return {
            "label": s.label,
            "backend": s.backend,
            "precision": s.precision,
            "device": s.device,
            "reason": self.reason,
            "pairs_per_second": self.pairs_per_second,
            "text_query_seconds": self.text_query,
            "image_query_seconds": self.image_query,
            "images_per_second": self.images_per_second,
            "captions_per_second": self.captions_per_second,
            "peak_bytes": self.peak_bytes,
            "tile_bytes": self.tile_bytes,
            "tuning": self.tuning and {shape: asdict(tuned) for shape, tuned in self.tuning.items()},
            "pair_work": self.pair_work and asdict(self.pair_work),
            "score_error": self.score_error,
            "retrieval": self.retrieval and self.retrieval.as_dict(),
            "metrics": self.metrics and self.metrics.as_dict(),
            "parity": self.parity and asdict(self.parity),
            "rounds": self.rounds,
        }


@dataclass(frozen=True)
class BenchResult:
    """All rows of one run, and what they were measured on."""

    workload: str
    rows: list[Row]

    @property
    def reference(self) -> Row | None:
        """The row with PyTorch's scores, if there is one."""
        return _reference(self.rows)

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": describe_machine(),
            "workload": self.workload,
            "rows": [r.as_dict() for r in self.rows],
            "native": [asdict(gain) for gain in native_gains(self.rows)],
            "roofline": [asdict(line) for line in rooflines(self.rows)],
        }


def run_bench(
    bundle_path: Path,
    *,
    data: Path | None = None,
    split: str = "test",
    checkpoint: Path | None = None,
    rounds: int = DEFAULT_ROUNDS,
    threads: int | None = None,
    retrieval: bool = False,
    trust_engines: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> BenchResult:
    """Measure every backend and precision of a bundle against PyTorch.

    With `data`, R@K and the differences from PyTorch on its split; without, random inputs and speed alone.
    `retrieval`: also what galleries, search_many and batching cost, with one row of each device; `trust_engines`: also
    engines that were not built here. A row that can't run here carries the reason. Raises BundleError or DataError for
    inputs that can't be used.
    """
    bundle = open_bundle(bundle_path)
    load = _loader(bundle, data, split)
    workload = load()
    if data is not None:
        check_dimension(workload.features, bundle.config, data)
    rows = _rows(bundle, checkpoint, trust_engines)
    with temporary_folder("bench") as scratch, _stopped_at_the_end() as workers:
        for number, row in enumerate(rows):
            if row.reason is None:
                progress(f"preparing {row.spec.label} {row.spec.precision} {row.spec.device}")
                folder = scratch / str(number)
                folder.mkdir()
                workers[number] = _Worker(row.spec, load, threads, folder)
                _prepare(row, workers[number])
        _raise_if_none_ran(rows)
        running = [(worker, rows[number]) for number, worker in workers.items() if rows[number].reason is None]
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}")
            for worker, row in running:
                worker.send("measure")
                row.rounds.append(worker.receive())
        for worker, row in _first_of_each_device(running) if retrieval else []:
            progress(f"galleries, search_many and batching with {row.name}; minutes")
            worker.send("retrieval")
            row.retrieval = worker.receive()["retrieval"]
    for _, row in running:
        _summarise(row)
    if workload.image_of_caption is not None:
        _compare(rows, workload.image_of_caption)
        _complete_records(bundle, rows, workload)
    return BenchResult(workload.description, rows)


@contextmanager
def _stopped_at_the_end() -> Iterator[dict[int, _Worker]]:
    workers: dict[int, _Worker] = {}
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def _loader(bundle: Bundle, data: Path | None, split: str) -> Callable[[], Workload]:
    """What opens the workload, here and in every row's process."""
    if data is not None:
        return partial(data_workload, data.resolve(), split)
    vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
    return partial(random_workload, bundle.config, [w for w in vocabulary.words if w not in SPECIAL_TOKENS])


def _rows(bundle: Bundle, checkpoint: Path | None, trust_engines: bool = False) -> list[Row]:
    """Every row there could be; those that need the checkpoint carry the reason if it is not to be had."""
    reason = None
    source = bundle.folder
    try:
        source = checkpoint_of(bundle, checkpoint)
    except CheckpointError as error:
        reason = str(error)
    torch_rows = [
        RowSpec("pytorch, research form", "torch", source, research_form=True),
        RowSpec("pytorch, precomputed", "torch", source, tune_tile=True),
    ]
    onnx_rows = [
        RowSpec("onnxruntime", "onnxruntime", bundle.folder, precision, device)
        for precision in bundle.precisions
        for device in ("cpu", "cuda")
    ]
    engines = {engine["precision"]: engine["target"] for engine in bundle.manifest.get("engines", {}).values()}
    engine_rows = [
        RowSpec(target, "tensorrt", bundle.folder, precision, "cuda", trust_engines=trust_engines)
        for precision, target in engines.items()
    ]
    kernel_rows = [
        RowSpec("triton", "triton", bundle.folder, precision, "cuda")
        for precision, (graphs, _) in TRITON_PRECISIONS.items()
        if graphs in bundle.precisions and has_nvidia_driver()
    ]
    native_rows = [
        RowSpec("native", "native", bundle.folder, precision)
        for precision in (*bundle.precisions, BF16)
        if precision in NATIVE_PRECISIONS
    ]
    own_rows = [*onnx_rows, *native_rows, *engine_rows, *kernel_rows]
    return [Row(spec, reason=reason) for spec in torch_rows] + [Row(spec) for spec in own_rows]


def _first_of_each_device(running: list[tuple[_Worker, Row]]) -> list[tuple[_Worker, Row]]:
    chosen: dict[str, tuple[_Worker, Row]] = {}
    for worker, row in running:
        if row.spec.backend != "torch":
            chosen.setdefault(row.spec.device, (worker, row))
    return list(chosen.values())


def _prepare(row: Row, worker: _Worker) -> None:
    try:
        prepared = worker.receive()
    except CaanError as error:
        row.reason, row.error = str(error), error
        return
    row.peak_bytes, row.tile_bytes, row.tuning = prepared["peak_bytes"], prepared["tile_bytes"], prepared["tuning"]
    row.scores, row.pair_work = prepared.get("scores"), prepared["pair_work"]
    row.score_error = prepared.get("score_error")


def _raise_if_none_ran(rows: list[Row]) -> None:
    """The same wrong input fails every row: that is the command's error, not a table of reasons."""
    errors = [row.error for row in rows if row.error is not None]
    if errors and all(row.reason for row in rows):
        raise errors[0]


def _summarise(row: Row) -> None:
    def median(key: str) -> float:
        return float(np.median([r[key] for r in row.rounds]))

    def percentiles(key: str) -> dict[str, float]:
        samples = np.concatenate([r[key] for r in row.rounds])
        return {f"p{p}": float(np.percentile(samples, p)) for p in (50, 95, 99)}

    row.pairs_per_second = median("pairs_per_second")
    if not row.spec.research_form:
        row.text_query, row.image_query = percentiles("text_query"), percentiles("image_query")
        row.images_per_second, row.captions_per_second = (
            median("images_per_second"),
            median("captions_per_second"),
        )


def _reference(rows: list[Row]) -> Row | None:
    return next((row for row in rows if row.spec.backend == "torch" and row.scores is not None), None)


def _compare(rows: list[Row], image_of_caption: NDArray[np.int64]) -> None:
    reference = _reference(rows)
    for row in rows:
        if row.scores is not None:
            row.metrics = retrieval_metrics(row.scores, image_of_caption)
            if reference is not None and reference.scores is not None:
                row.parity = parity(row.scores, reference.scores, image_of_caption)


def _complete_records(bundle: Bundle, rows: list[Row], workload: Workload) -> None:
    """Engines ran, perhaps for the first time; without PyTorch's scores there is nothing to compare them with."""
    reference = _reference(rows)
    ran = {row.spec.precision: row.scores for row in rows if row.spec.backend == "tensorrt" and row.scores is not None}
    if reference is not None and reference.scores is not None:
        complete_engine_records(bundle.folder, workload, reference.scores, ran)


class _Worker:
    """The parent's end of one row's process."""

    def __init__(self, spec: RowSpec, load: Callable[[], Workload], threads: int | None, folder: Path) -> None:
        # Spawned, not forked: a child starts with none of the parent's memory or threads.
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.label = spec.label
        self.process: BaseProcess = context.Process(
            target=serve, args=(other, spec, load, threads, folder), daemon=True
        )
        with away_from_here():
            self.process.start()
        other.close()

    def send(self, message: str | None) -> None:
        try:
            self.connection.send(message)
        except BrokenPipeError as error:
            raise self._ended() from error

    def receive(self) -> dict[str, Any]:
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise self._ended() from error
        if isinstance(answer, BaseException):
            raise answer
        result: dict[str, Any] = answer
        return result

    def _ended(self) -> CaanError:
        return CaanError(f"the process of '{self.label}' ended unexpectedly, probably for lack of memory")

    def stop(self) -> None:
        with suppress(OSError, ValueError):
            self.connection.send(None)
        self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self.connection.close()
