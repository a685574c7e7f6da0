"""Bundle → graphs of one precision, checked by the gate → TensorRT engines, added to the same bundle.

The bundle changes only once everything is ready: graphs, verdict, plans. If the gate fails, the bundle stays unchanged,
unless `keep_failed` keeps the precision, marked as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .._files import check_change, sha256_of, temporary_folder
from .._machine import has_nvidia_driver
from ..accuracy.gate import AccuracyGate
from ..bundle import (
    GRAPHS,
    Bundle,
    change_bundle,
    ep_context_file,
    graph_file,
    open_bundle,
    plan_file,
    write_manifest,
)
from ..calibration.calibrate import Calibration
from ..calibration.sensitivity import NodeCost, cost_table, node_costs
from ..engines.built_plans import remember_plan
from ..engines.profiles import Profile
from ..engines.record import NOT_RUN, EngineOptions, EngineRecord, ProfileRecord, engine_name
from ..errors import BundleError, GateError, InputError, MissingError
from ..graphs import check_graphs
from .ep_context import ep_context_graph, widest_first
from .plan_from_graph import BuildOptions, build_plan
from .precision import PrecisionGraphs, PrecisionPass, gate_bundle, random_check
from .targets import Target

# Images, with their captions, for measuring a node's cost in INT8: a few seconds per node.
_SENSITIVITY_IMAGES = 100

PASSED, FAILED, UNGATED = "passed", "failed", "ungated"


@dataclass(frozen=True)
class EngineJob:
    """What to build."""

    precision: str
    target: Target
    profiles: Mapping[str, Sequence[Profile]]  # graph → optimisation profiles
    options: BuildOptions
    keep_fp32: Sequence[str] = ()
    auto: bool = False  # INT8: return nodes to FP16 until the gate passes
    sensitivity: bool = False  # INT8: measure each node's cost
    keep_failed: bool = False


@dataclass(frozen=True)
class EngineReport:
    """What was built and its accuracy. `graphs` is None if the bundle's existing graphs were used."""

    bundle: Bundle
    engine: str
    precision: dict[str, Any]  # the manifest's entries
    record: dict[str, Any]
    graphs: PrecisionGraphs | None
    failure: GateError | None


@dataclass(frozen=True)
class _Chosen:
    """One precision's graphs as files, and their manifest entry."""

    files: dict[str, Path]
    entry: dict[str, Any]
    graphs: PrecisionGraphs | None = None
    record: dict[str, Any] | None = None  # of this run's gate


def build_engine(
    folder: Path,
    job: EngineJob,
    *,
    gate: AccuracyGate | None = None,
    calibration: Calibration | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> EngineReport:
    """Add a precision and its engines for one target to the bundle `folder`.

    Raises GateError if the gate fails (with `keep_failed` the report holds it instead), InputError for INT8 without
    calibration if the bundle has no INT8 graphs yet, ExportError for a graph that can't be converted or built,
    BundleError or OutputError for a bundle that can't be read or written. On error the bundle is unchanged.
    """
    bundle = open_bundle(folder)
    engine = engine_name(job.target.name, job.precision, job.options.compute_capabilities)
    check_change(folder, _files_of(job.precision, engine))
    check_graphs(bundle)  # TensorRT's parser and onnx are not safe on untrusted graphs
    with temporary_folder("engine") as scratch:
        chosen = _choose_graphs(bundle, job, gate, calibration, scratch, progress)
        failure = None
        if chosen.record is not None and not chosen.record["passed"]:
            failure = _failure(bundle, job, chosen.record)
            if not job.keep_failed:
                raise failure
        plans, profiles = {}, {graph: widest_first(unsorted) for graph, unsorted in job.profiles.items()}
        for graph in GRAPHS:
            plans[graph] = scratch / f"{graph}.plan"
            progress(f"building {graph} with {job.target.name} {job.target.version}")
            plan = build_plan(job.target, chosen.files[graph], profiles[graph], job.options)
            plans[graph].write_bytes(plan)
            remember_plan(sha256_of(plans[graph]))
        hashes = {graph: sha256_of(path) for graph, path in chosen.files.items()}
        record = engine_entry(engine, job, profiles, hashes)
        put = partial(_put, bundle, job, chosen, plans, engine, record, gate)
        changed = change_bundle(folder, put)
    return EngineReport(
        changed,
        engine,
        changed.manifest["precisions"][job.precision],
        changed.manifest["engines"][engine],
        chosen.graphs,
        failure,
    )


def engine_entry(
    name: str, job: EngineJob, profiles: Mapping[str, Sequence[Profile]], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """The engine's manifest entry; hashes: {graph: SHA-256 of the ONNX file it was built from}."""
    options = job.options
    return EngineRecord(
        name,
        job.target.name,
        job.target.version,
        job.precision,
        list(options.compute_capabilities),
        EngineOptions(
            options.optimization_level,
            options.workspace_mib,
            options.version_compatible,
            options.hardware_compatible,
            options.strip_weights,
        ),
        {graph: [ProfileRecord.of(profile) for profile in of_graph] for graph, of_graph in profiles.items()},
        dict(hashes),
        run=NOT_RUN,
    ).as_entry()


def _files_of(precision: str, engine: str) -> list[str]:
    """Files that a precision and its engine add to a bundle."""
    return [
        file
        for graph in GRAPHS
        for file in (graph_file(graph, precision), plan_file(graph, engine), ep_context_file(graph, engine))
    ]


def _choose_graphs(
    bundle: Bundle,
    job: EngineJob,
    gate: AccuracyGate | None,
    calibration: Calibration | None,
    scratch: Path,
    progress: Callable[[str], None],
) -> _Chosen:
    existing = bundle.manifest["precisions"].get(job.precision)
    if job.precision == "fp32" or (job.precision == "int8" and calibration is None):
        if existing is None:
            raise InputError(
                f"INT8 needs real data to calibrate on, and {bundle.folder} has no INT8 graphs yet; add"
                " --calibration-data DIR"
            )
        files = {name: bundle.graph(name, job.precision) for name in GRAPHS}
        verdict = None
        if gate is not None:
            progress(f"checking {job.precision} on the data")
            verdict = gate.check(bundle.folder, job.precision)
        return _Chosen(files, _with_checks(existing, [], verdict), record=verdict)
    maker = PrecisionPass(bundle, job.precision, job.keep_fp32, calibration.ranges if calibration else None)
    search = _Search(bundle, maker, gate, scratch, progress)
    costs: list[NodeCost] = []
    if job.precision == "int8":
        converted, verdict, costs = search.int8(job)
    else:
        converted, verdict = search.attempt(())
    (scratch / "onnx").mkdir()
    files = {name: scratch / graph_file(name, job.precision) for name in GRAPHS}
    for name, path in files.items():
        onnx.save(converted.graphs[name], path)
    same = existing is not None and all(
        sha256_of(path) == bundle.hash_of(graph_file(name, job.precision)) for name, path in files.items()
    )
    entry = converted.entry()
    if calibration is not None:
        entry["calibration"] = calibration.record
    if costs:
        # A node that makes a score NaN costs infinity, which JSON can't hold.
        entry["sensitivity"] = [
            {name: value if not isinstance(value, float) or np.isfinite(value) else None for name, value in row.items()}
            for row in map(asdict, costs)
        ]
    earlier = existing["checks"] if same else [random_check(bundle, converted)]
    return _Chosen(files, _with_checks(entry, earlier, verdict, existing if same else None), converted, verdict)


class _Search:
    """Finds graphs of one precision that pass the gate."""

    def __init__(
        self,
        bundle: Bundle,
        maker: PrecisionPass,
        gate: AccuracyGate | None,
        scratch: Path,
        progress: Callable[[str], None],
    ) -> None:
        self.bundle, self.maker, self.gate, self.progress = bundle, maker, gate, progress
        self.scratch = scratch
        self.tries = 0

    def attempt(self, nodes: Sequence[str]) -> tuple[PrecisionGraphs, dict[str, Any] | None]:
        """Graphs with these nodes in INT8, and the gate's verdict (None without a gate)."""
        graphs = self.maker.graphs(nodes)
        if self.gate is None:
            return graphs, None
        self.progress(f"checking {graphs.precision} on the data")
        record = self.gate.check(self._folder(graphs), graphs.precision)
        self.progress(f"{'passed' if record['passed'] else 'failed'}: {record['summary']}")
        return graphs, record

    def int8(self, job: EngineJob) -> tuple[PrecisionGraphs, dict[str, Any] | None, list[NodeCost]]:
        """All products in INT8; with `auto`, the most harmful ones returned to FP16 until the gate passes."""
        nodes = self.maker.quantizable()
        graphs, record = self.attempt(nodes)
        must_search = job.auto and record is not None and not record["passed"]
        if self.gate is None or not (job.sensitivity or must_search):
            return graphs, record, []
        costs = self._costs(nodes, self.gate.sample(_SENSITIVITY_IMAGES))
        for cost in costs:
            if not (job.auto and record is not None and not record["passed"]):
                break
            nodes.remove(cost.node)
            self.progress(f"{cost.node} returns to FP16: alone it changes scores by {cost.mean_abs:.1e} on average")
            graphs, record = self.attempt(nodes)
        return graphs, record, costs

    def _costs(self, nodes: Sequence[str], sample: AccuracyGate) -> list[NodeCost]:
        self.progress("measuring the cost of each node alone in INT8")

        def score(node: str) -> NDArray[np.float32]:
            return sample.scores(self._folder(self.maker.graphs([node])), "int8")

        costs = node_costs(nodes, score, sample.reference, sample.truth)
        self.progress(cost_table(costs))
        return costs

    def _folder(self, graphs: PrecisionGraphs) -> Path:
        self.tries += 1
        return gate_bundle(self.bundle, graphs, self.scratch / f"gate-{self.tries}")


def _with_checks(
    entry: dict[str, Any],
    earlier: list[dict[str, Any]],
    verdict: dict[str, Any] | None,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The entry with its checks, and the status of the latest verdict, else the previous status."""
    checks = [*(entry.get("checks") or earlier), *([] if verdict is None else [verdict])]
    if verdict is not None:
        status = PASSED if verdict["passed"] else FAILED
    else:
        status = (before or entry).get("status", UNGATED)
    return {**entry, "checks": checks, "status": status}


def _failure(bundle: Bundle, job: EngineJob, record: dict[str, Any]) -> GateError:
    allowed = ", ".join(f"|{name.replace('_', ' ')}| {value:g}" for name, value in record.get("allowed", {}).items())
    kept = f"it is in {bundle.folder}, marked as failed" if job.keep_failed else f"{bundle.folder} is unchanged"
    advice = "--int8=auto, another --calibration-method" if job.precision == "int8" and not job.auto else "--keep-fp32"
    return GateError(
        f"{job.precision} fails its accuracy gate on {record['data']}: {record['summary']} (allowed:"
        f" {allowed or 'finite scores'}); {kept}. Try {advice}, or relax the gate with --gate-rsum"
    )


def _put(
    source: Bundle,
    job: EngineJob,
    chosen: _Chosen,
    plans: Mapping[str, Path],
    engine: str,
    record: dict[str, Any],
    gate: AccuracyGate | None,
    folder: Path,
    manifest: dict[str, Any],
) -> None:
    """Put graphs, plans and entries into `folder`, a copy of the current bundle."""
    for name in GRAPHS:
        file = graph_file(name, "fp32")
        if manifest["files"][file]["sha256"] != source.hash_of(file):
            raise BundleError(f"{source.folder} was exported again while its engine was built; run the command again")
        if chosen.graphs is not None:
            _replace(folder / graph_file(name, job.precision), chosen.files[name].read_bytes())
        _replace(folder / plan_file(name, engine), plans[name].read_bytes())
        if not job.options.strip_weights:  # else ONNX Runtime would need the weights' location
            context = ep_context_graph(job.target, chosen.files[name], plans[name].name)
            _replace(folder / ep_context_file(name, engine), context.SerializeToString())
            remember_plan(sha256_of(folder / ep_context_file(name, engine)))  # it names the plan to run
    manifest["precisions"][job.precision] = chosen.entry
    engines = manifest.setdefault("engines", {})
    engines[engine] = record
    _drop_stale(folder, engines, job.precision, record["onnx"])
    if gate is not None and has_nvidia_driver():
        write_manifest(folder, {**manifest, "engines": {engine: record}})
        _gate_engine(folder, job, record, gate)


def _gate_engine(folder: Path, job: EngineJob, record: dict[str, Any], gate: AccuracyGate) -> None:
    """Run the plans that ship on the gate's data, and complete the engine's record."""
    try:
        verdict = gate.check(folder, job.precision, "tensorrt", "cuda")
    except (BundleError, MissingError) as error:  # built for another GPU
        record["run"] = f"engine not run: {error}"
        return
    if not verdict["passed"] and not job.keep_failed:
        raise GateError(f"the engine fails its accuracy gate: {verdict['summary']}; the bundle is unchanged")
    record["checks"].append(verdict)
    record["run"] = None


def _drop_stale(folder: Path, engines: dict[str, Any], precision: str, hashes: Mapping[str, str]) -> None:
    """Remove a precision's engines that were built from other graphs: they can no longer be loaded."""
    for name, other in list(engines.items()):
        if other["precision"] == precision and other["onnx"] != dict(hashes):
            del engines[name]
            for graph in GRAPHS:
                (folder / plan_file(graph, name)).unlink(missing_ok=True)
                (folder / ep_context_file(graph, name)).unlink(missing_ok=True)
            with suppress(OSError):
                (folder / plan_file(GRAPHS[0], name)).parent.rmdir()


def _replace(path: Path, content: bytes) -> None:
    # Never write in place: the file may be hard-linked from the old bundle.
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
