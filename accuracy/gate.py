"""The accuracy gate: compares a precision's retrieval metrics with PyTorch's FP32 on a data set before it ships."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._machine import describe_machine
from ..bundle import Bundle, change_bundle, open_bundle
from ..errors import GateError
from ..metrics import Parity, parity, retrieval_metrics
from ..runtime import Retriever
from ..runtime.backends.contract import BF16
from ..runtime.choices import BackendName, Device, Precision
from .reference_scores import PYTORCH, reference_scores, scores_of
from .workload import Workload, spread


@dataclass(frozen=True)
class Limits:
    """The largest allowed differences; None: no limit."""

    max_abs: float | None = None  # largest |Δ score|
    delta_rsum: float | None = None  # |Δ rsum|, percentage points summed over the six R@K

    def __str__(self) -> str:
        return limits_text({"allowed": {name: value for name, value in asdict(self).items() if value is not None}})

    def hold(self, difference: Parity) -> bool:
        """Whether a difference from the reference is within these limits."""
        pairs = ((difference.max_abs, self.max_abs), (abs(difference.delta_rsum), self.delta_rsum))
        return all(limit is None or value <= limit for value, limit in pairs)


# A gate on R@K proves little if R@K can hardly change: with few queries, or near the maximum rsum.
_FEW_QUERIES, _SATURATED = 500, 590.0

# With FP32 scores this close, R@K can differ only where two scores are within twice this distance: a tie.
DEFAULT_LIMITS = {
    "fp32": Limits(max_abs=1e-4),
    "fp16": Limits(delta_rsum=0.5),
    BF16: Limits(delta_rsum=0.5),
    "int8": Limits(delta_rsum=2.0),
}


class AccuracyGate:
    """A data set with PyTorch's scores on it, and the limits a precision must meet."""

    def __init__(self, workload: Workload, reference: NDArray[np.float32], reference_name: str, limits: Limits) -> None:
        truth = workload.image_of_caption
        assert truth is not None  # None only for random inputs
        self.workload, self.reference, self.reference_name, self.limits = workload, reference, reference_name, limits
        self.truth: NDArray[np.int64] = truth

    @classmethod
    def open(
        cls,
        workload: Workload,
        bundle: Bundle,
        checkpoint: Path | None,
        limits: Limits,
        progress: Callable[[str], None] = lambda message: None,
    ) -> AccuracyGate:
        """Compute the reference's scores, or read them from the cache. Raises as `reference_scores`."""
        scores, name = reference_scores(workload, bundle, checkpoint, progress)
        return cls(workload, scores, name, limits)

    def sample(self, images: int) -> AccuracyGate:
        """The same gate on at most `images` evenly spaced images with their captions, for quick checks."""
        chosen = spread(np.arange(len(self.workload.features)), images)
        rows = np.isin(self.truth, chosen)
        part = self.workload.subset(chosen)
        return AccuracyGate(
            part, self.reference[np.ix_(chosen, np.flatnonzero(rows))], self.reference_name, self.limits
        )

    def scores(
        self, bundle: Path, precision: str, backend: str = "onnxruntime", device: str = "cpu"
    ) -> NDArray[np.float32]:
        """Scores (images, captions) float32 of a bundle's precision on the gate's data."""
        # Engines are gated by the process that has just built them.
        retriever = Retriever.open(
            bundle,
            cast(BackendName, backend),
            cast(Precision, precision),
            device=cast(Device, device),
            trust_engines=True,
        )
        return self.workload.scores(retriever)

    def check(self, bundle: Path, precision: str, backend: str = "onnxruntime", device: str = "cpu") -> dict[str, Any]:
        """Score the data with a bundle's precision and compare; returns the manifest's record, with "passed"."""
        return self.compare(self.scores(bundle, precision, backend, device), backend)

    def compare(self, scores: NDArray[np.float32], backend: str) -> dict[str, Any]:
        """As `check`, for given scores (images, captions)."""
        where = {"what": f"{backend} against {self.reference_name} on a data set", "data": self.workload.description}
        if not np.isfinite(scores).all():
            bad = int((~np.isfinite(scores)).sum())
            summary = f"{bad} of {scores.size} scores are NaN or infinite"
            return {**where, "device": describe_machine(), "passed": False, "summary": summary}
        metrics = retrieval_metrics(scores, self.truth)
        difference = parity(scores, self.reference, self.truth)
        weakness = self._weakness(difference, sum(scores.shape))
        summary = _summary(metrics.rsum, difference, sum(scores.shape))
        return {
            **where,
            "device": describe_machine(),
            "metrics": metrics.as_dict(),
            "reference": retrieval_metrics(self.reference, self.truth).as_dict(),
            "parity": asdict(difference),
            "allowed": {name: value for name, value in asdict(self.limits).items() if value is not None},
            "passed": self.limits.hold(difference),
            "proves_little": weakness,
            "summary": f"{summary}; this proves little: {weakness}" if weakness else summary,
        }

    def _weakness(self, difference: Parity, queries: int) -> str | None:
        """Why R@K on this data proves little; None if it does prove something, or if only scores are limited."""
        if self.limits.delta_rsum is None:
            return None
        reference = retrieval_metrics(self.reference, self.truth).rsum
        low, high = difference.delta_rsum_interval
        reasons = [
            (queries < _FEW_QUERIES, f"only {queries} queries"),
            (reference >= _SATURATED, f"rsum {reference:.2f} of at most 600"),
            (low == high, "no query's rank moved across a K"),
        ]
        return ", ".join(text for weak, text in reasons if weak) or None


def limits_text(record: dict[str, Any]) -> str:
    """A record's limits, for an error message."""
    names = {"max_abs": "max |Δ score| {:.0e}", "delta_rsum": "|Δ rsum| {:g}", "top10_kept": "top-10 kept {:g} %"}
    return ", ".join(names[name].format(value) for name, value in record.get("allowed", {}).items()) or "finite scores"


def fp32_gate(
    workload: Workload, reference: Retriever, progress: Callable[[str], None] = lambda message: None
) -> Callable[[Path], dict[str, Any]]:
    """A gate for `export_checkpoint`: scores a data set with the bundle and with PyTorch, and compares.

    reference: the checkpoint that is exported, opened by PyTorch's backend. The gate raises GateError if a score
    differs by more than 1e-4, and otherwise returns the manifest's record.
    """
    progress(f"{workload.description}: {workload.layout}")

    def gate(bundle: Path) -> dict[str, Any]:
        scores = scores_of(reference, workload, progress)
        record = AccuracyGate(workload, scores, PYTORCH, DEFAULT_LIMITS["fp32"]).check(bundle, "fp32")
        if not record["passed"]:
            raise GateError(
                f"on {record['data']} ONNX Runtime is too far from PyTorch: {record['summary']} (allowed:"
                f" {limits_text(record)}); no bundle was written"
            )
        return record

    return gate


def complete_engine_records(
    bundle: Path, workload: Workload, reference: NDArray[np.float32], scores: Mapping[str, NDArray[np.float32]]
) -> None:
    """Add the accuracy checks of engines that could not run on the machine that built them to the manifest.

    reference: PyTorch's scores (images, captions); scores: precision → its engine's scores on the same workload.
    """

    def waiting(manifest: dict[str, Any]) -> list[dict[str, Any]]:
        return [e for e in manifest.get("engines", {}).values() if e.get("run") and e["precision"] in scores]

    def record(folder: Path, manifest: dict[str, Any]) -> None:
        for engine in waiting(manifest):
            precision = engine["precision"]
            gate = AccuracyGate(workload, reference, PYTORCH, DEFAULT_LIMITS[precision])
            engine["checks"].append(gate.compare(scores[precision], "tensorrt"))
            engine["run"] = None

    if waiting(open_bundle(bundle).manifest):
        change_bundle(bundle, record)


def _summary(rsum: float, difference: Parity, queries: int) -> str:
    low, high = difference.delta_rsum_interval
    return (
        f"rsum {rsum:.2f}, Δ {difference.delta_rsum:+.2f} (95 % interval {low:+.2f} to {high:+.2f}), max |Δ score|"
        f" {difference.max_abs:.1e}, top-10 kept {difference.top10_overlap:.1f} %, another best item for"
        f" {difference.rank_flips} of {queries:,} queries"
    )
