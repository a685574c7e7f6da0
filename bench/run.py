"""Run the bench: every row in its own process, in alternating rounds, so that all share a drift of the machine."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import sha256_of, temporary_folder
from .._machine import describe_machine, has_nvidia_driver
from ..accuracy.gate import complete_engine_records
from ..accuracy.reference_scores import checkpoint_of
from ..accuracy.workload import Workload, check_dimension, data_workload, random_workload
from ..bundle import MANIFEST, VOCABULARY, Bundle, open_bundle
from ..data.vocabulary import SPECIAL_TOKENS, Vocabulary
from ..errors import CaanError, CheckpointError, InputError
from ..metrics import parity, retrieval_metrics
from ..runtime.backends.contract import BF16
from ..runtime.backends.native import PRECISIONS as NATIVE_PRECISIONS
from ..runtime.backends.triton.backend import PRECISIONS as TRITON_PRECISIONS
from .interrupted import SavedMeasurements
from .native_gains import native_gains
from .own_process import away_from_here
from .recall import RecallCurve
from .roofline import rooflines
from .rows import Row
from .worker import RowSpec, serve

DEFAULT_ROUNDS = 5


@dataclass(frozen=True)
class BenchResult:
    """All rows of one run, and what they were measured on."""

    workload: str
    rows: list[Row]
    recall: list[RecallCurve] = field(default_factory=list)  # of a bundle with sketches, on a data set

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
            "recall": [curve.as_dict() for curve in self.recall],
        }


@dataclass(frozen=True)
class BenchOptions:
    """How a bench is run. `only`: row names or prefixes of them; `limit`: images of the data set; `resume`: continue an
    interrupted run of the same bench."""

    data: Path | None = None
    split: str = "test"
    limit: int | None = None
    checkpoint: Path | None = None
    rounds: int = DEFAULT_ROUNDS
    threads: int | None = None
    only: tuple[str, ...] = ()
    retrieval: bool = False
    resume: bool = False
    trust_engines: bool = False


def run_bench(bundle_path: Path, progress: Callable[[str], None] = lambda message: None, **options: Any) -> BenchResult:
    """As `run_benches` for one bundle; `options` are those of BenchOptions."""
    return run_benches([bundle_path], BenchOptions(**options), progress)[0]


def run_benches(
    bundle_paths: Sequence[Path], options: BenchOptions, progress: Callable[[str], None] = lambda message: None
) -> list[BenchResult]:
    """Measure every backend and precision of each bundle against PyTorch, in alternating rounds.

    With `data`, also R@K and the differences from PyTorch on its split; without, only speed on random inputs.
    `retrieval`: also galleries, search_many and batching, with one row of each device; `trust_engines`: also engines
    not built here. A row that can't run here carries the reason. Raises BundleError or DataError for unusable inputs,
    InputError for bundles that can't be compared or a name in `only` that matches no row.
    """
    bundles = [open_bundle(path) for path in bundle_paths]
    load = _loader(bundles, options)
    workload = load()
    for bundle in bundles:
        check_dimension(workload.features, bundle.config, options.data or bundles[0].folder)
    results = [
        BenchResult(workload.description, _rows(bundle, options.checkpoint, options.trust_engines))
        for bundle in bundles
    ]
    if options.only:
        _keep_only(results, options.only)
    if workload.layout:
        progress(f"{workload.description}: {workload.layout}")
    read_as = f"{workload.description} {workload.layout}"
    identity = ([sha256_of(bundle.folder / MANIFEST) for bundle in bundles], read_as, options.threads)
    measured = SavedMeasurements((*identity, str(options.data and options.data.resolve())), options.resume)
    rows = [(f"{number} {row.name}", row) for number, result in enumerate(results) for row in result.rows]
    try:
        _measure(rows, options, load, workload, measured, progress)
    except BaseException:
        if measured.rows:
            progress("interrupted: the measurements so far are kept; resume with the same command and --resume")
        raise
    for bundle, result in zip(bundles, results, strict=True):
        for row in result.rows:
            if row.reason is None:
                _summarise(row)
        if workload.image_of_caption is not None:
            _compare(result.rows, workload.image_of_caption)
            _complete_records(bundle, result.rows, workload)
    measured.remove()
    return results


def _measure(
    rows: list[tuple[str, Row]],
    options: BenchOptions,
    load: Callable[[], Workload],
    workload: Workload,
    measured: SavedMeasurements,
    progress: Callable[[str], None],
) -> None:
    with temporary_folder("bench") as scratch, _stopped_at_the_end() as workers:
        round_seconds = {}
        for number, (key, row) in enumerate(rows):
            if row.reason is not None or _restore(row, key, measured, options, workload):
                continue
            progress(f"preparing {row.spec.label} {row.spec.precision} {row.spec.device}")
            folder = scratch / str(number)
            folder.mkdir()
            spec = replace(row.spec, scored=row.scores is not None)
            workers[number] = _Worker(spec, load, options.threads, folder)
            if (duration := _prepare(row, workers[number])) is not None:
                round_seconds[number] = duration
                measured.keep(key, row.as_measured(), row.scores)
        _raise_if_none_ran([row for _, row in rows])
        running = [(worker, *rows[number]) for number, worker in workers.items() if rows[number][1].reason is None]
        missing = sum((options.rounds - len(rows[n][1].rounds)) * took for n, took in round_seconds.items())
        progress(f"{options.rounds} rounds of {len(running)} rows will take about {_duration(missing)}")
        start, first = time.monotonic(), min((len(row.rounds) for _, _, row in running), default=0)
        for number in range(first, options.rounds):
            left = (
                missing
                if number == first
                else (time.monotonic() - start) / (number - first) * (options.rounds - number)
            )
            progress(f"round {number + 1} of {options.rounds}, about {_duration(left)} left")
            for worker, key, row in running:
                if len(row.rounds) <= number:
                    worker.send("measure")
                    row.rounds.append(worker.receive())
                    measured.keep(key, row.as_measured())
        for worker, row in _first_of_each_device(running) if options.retrieval else []:
            progress(f"galleries, search_many and batching with {row.name}; minutes")
            worker.send("retrieval")
            row.retrieval = worker.receive()["retrieval"]


def _restore(row: Row, key: str, measured: SavedMeasurements, options: BenchOptions, workload: Workload) -> bool:
    """Take a row's rounds from an interrupted bench; whether the row is complete."""
    saved = measured.rows.get(key)
    if saved is None:
        return False
    row.take_measured(saved)
    if workload.image_of_caption is not None and not row.spec.research_form:
        row.scores = measured.scores(key, (len(workload.features), len(workload.captions)))
        if row.scores is None:
            return False
    return len(row.rounds) >= options.rounds and not options.retrieval


def _keep_only(results: Sequence[BenchResult], only: Sequence[str]) -> None:
    names = dict.fromkeys(row.name for result in results for row in result.rows)
    for prefix in only:
        if not any(name.lower().startswith(prefix.lower()) for name in names):
            raise InputError(f"no row is called {prefix!r}; --only takes one of: {', '.join(names)}")
    for result in results:
        result.rows[:] = [r for r in result.rows if r.name.lower().startswith(tuple(o.lower() for o in only))]


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


@contextmanager
def _stopped_at_the_end() -> Iterator[dict[int, _Worker]]:
    workers: dict[int, _Worker] = {}
    try:
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def _loader(bundles: Sequence[Bundle], options: BenchOptions) -> Callable[[], Workload]:
    """A function that opens the workload, here and in every row's process."""
    if options.data is not None:
        return partial(data_workload, options.data.resolve(), options.split, options.limit)
    vocabularies = [Vocabulary.load(bundle.folder / VOCABULARY) for bundle in bundles]
    common = set.intersection(*(set(vocabulary.words) for vocabulary in vocabularies)) - set(SPECIAL_TOKENS)
    if not common:
        raise InputError(
            "the bundles' vocabularies have no word in common; compare them on a data set, with --data DIR"
        )
    return partial(random_workload, bundles[0].config, [w for w in vocabularies[0].words if w in common])


def _rows(bundle: Bundle, checkpoint: Path | None, trust_engines: bool = False) -> list[Row]:
    """Every possible row; without the checkpoint, those that need it carry the reason."""
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
    bundle_rows = [*onnx_rows, *native_rows, *engine_rows, *kernel_rows]
    return [Row(spec, reason=reason) for spec in torch_rows] + [Row(spec) for spec in bundle_rows]


def _first_of_each_device(running: list[tuple[_Worker, str, Row]]) -> list[tuple[_Worker, Row]]:
    chosen: dict[str, tuple[_Worker, Row]] = {}
    for worker, _, row in running:
        if row.spec.backend != "torch":
            chosen.setdefault(row.spec.device, (worker, row))
    return list(chosen.values())


def _prepare(row: Row, worker: _Worker) -> float | None:
    """Expected seconds of a round of this row; None if it can't run."""
    try:
        prepared = worker.receive()
    except CaanError as error:
        row.reason, row.error = str(error), error
        return None
    # The peak of a process that scored the whole data set, if an earlier one did.
    row.peak_bytes = max(prepared["peak_bytes"], row.peak_bytes or 0)
    row.tile_bytes, row.tuning, row.pair_work = prepared["tile_bytes"], prepared["tuning"], prepared["pair_work"]
    row.scores, row.score_error = prepared.get("scores", row.scores), prepared.get("score_error")
    took: float = prepared["round_seconds"]
    return took


def _raise_if_none_ran(rows: list[Row]) -> None:
    """If the same bad input fails every row, raise it as the command's error instead of listing reasons."""
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
    """Record the checks of engines that ran, perhaps for the first time; needs PyTorch's scores."""
    reference = _reference(rows)
    ran = {row.spec.precision: row.scores for row in rows if row.spec.backend == "tensorrt" and row.scores is not None}
    if reference is not None and reference.scores is not None:
        complete_engine_records(bundle.folder, workload, reference.scores, ran)


class _Worker:
    """The parent's end of one row's process."""

    def __init__(self, spec: RowSpec, load: Callable[[], Workload], threads: int | None, folder: Path) -> None:
        # Spawned, not forked: a child inherits neither memory nor threads.
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
        return CaanError(f"the process of '{self.label}' ended unexpectedly, probably out of memory")

    def stop(self) -> None:
        with suppress(OSError, ValueError):
            self.connection.send(None)
        self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()
        self.connection.close()
