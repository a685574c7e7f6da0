"""The bench report: a self-contained HTML page without network access, other files or scripts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Literal

import numpy as np

from .._machine import describe_machine, nvidia_gpus
from ..accuracy.gate import DEFAULT_LIMITS
from ..bench.rows import Row
from ..bench.run import BenchResult
from ..bundle import Bundle
from .disagreements import Change, Pair, changed_best, worst_pairs
from .hits import best_hits
from .measurements import draw_charts
from .source import Source
from .template import render

_PACKAGES = ("caan-deploy", "numpy", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")
_WORST = 3  # pairs and queries shown per row


@dataclass(frozen=True)
class Gate:
    """A row's result at the accuracy gate; `text` is the limit, or why there is no gate."""

    state: Literal["passed", "failed", "none"]
    text: str


@dataclass(frozen=True)
class ShownRow:
    """A row that ran, its colour, its gate and its largest differences from PyTorch."""

    row: Row
    series: int
    gate: Gate
    ratio: float | None  # pairs/s against PyTorch with precomputed states, the median of the rounds' ratios
    pairs: list[Pair]
    changes: list[Change]


def bench_page(result: BenchResult, bundle: Bundle, source: Source | None) -> str:
    """The page of one run; speed only without a source (a data set).

    Raises MissingError without Jinja2. The page mentions whatever else is missing: pictures, boxes, the explainer
    graph.
    """
    rows = [
        _shown(result, bundle, row, number) for number, row in enumerate(r for r in result.rows if r.reason is None)
    ]
    return render(
        "bench.html.jinja",
        title=f"{bundle.folder.resolve().name} on {result.workload}",
        result=result,
        bundle=bundle,
        source=source,
        date=datetime.now(UTC),
        machine=describe_machine(),
        gpus=nvidia_gpus(),
        packages=_packages(),
        rows=rows,
        verdict=_verdict(rows),
        absent=[row for row in result.rows if row.reason is not None],
        charts=draw_charts([(shown.row, shown.series, shown.ratio) for shown in rows], result.reference, result.recall),
        hits=best_hits(result, bundle.folder, source) if source is not None else None,
        image_queries=_image_queries(rows),
        queries=len(source.split.features) + len(source.split.captions) if source is not None else 0,
    )


def _shown(result: BenchResult, bundle: Bundle, row: Row, number: int) -> ShownRow:
    reference, pairs, changes = result.reference, [], []
    if reference is not None and reference is not row and reference.scores is not None and row.scores is not None:
        pairs = worst_pairs(row.scores, reference.scores, _WORST)
        changes = changed_best(row.scores, reference.scores, _WORST)
    return ShownRow(row, number, _gate(row, reference, bundle), _ratio(result, row), pairs, changes)


def _gate(row: Row, reference: Row | None, bundle: Bundle) -> Gate:
    if row.spec.research_form:
        return Gate("none", "measured only for speed")
    if row is reference:
        return Gate("none", "the reference itself")
    limits = DEFAULT_LIMITS.get(row.spec.precision)
    if row.parity is None or limits is None:
        return Gate("none", "no PyTorch scores to compare with")
    state: Literal["passed", "failed"] = "passed" if limits.hold(row.parity) else "failed"
    built = bundle.manifest["precisions"].get(row.spec.precision, {}).get("status")
    note = "; it is marked as failed in the bundle" if built == "failed" else ""
    return Gate(state, f"limit: {limits}{note}")


def _ratio(result: BenchResult, row: Row) -> float | None:
    base = next((r for r in result.rows if r.spec.backend == "torch" and not r.spec.research_form and r.rounds), None)
    if base is None or base is row:
        return None
    pairs = zip(row.rounds, base.rounds, strict=True)
    return float(np.median([ours["pairs_per_second"] / theirs["pairs_per_second"] for ours, theirs in pairs]))


def _verdict(rows: list[ShownRow]) -> Gate:
    """All gates combined."""
    failed = [shown.row.name for shown in rows if shown.gate.state == "failed"]
    judged = [shown for shown in rows if shown.gate.state != "none"]
    if failed:
        return Gate("failed", f"gate failed: {', '.join(failed)}")
    if not judged:
        return Gate("none", "no gate applied")
    return Gate("passed", f"all {len(judged)} gates passed" if len(judged) > 1 else "the gate passed")


def _image_queries(rows: list[ShownRow]) -> int:
    """Number of image queries per row."""
    counts = (sum(len(r["image_query"]) for r in shown.row.rounds) for shown in rows if shown.row.image_query)
    return next(counts, 0)


def _packages() -> dict[str, str]:
    installed = {}
    for name in _PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
