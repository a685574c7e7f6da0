"""The compiled scorer's gain on a CPU: the rows of `native` against ONNX Runtime's best tile in the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .rows import Row


@dataclass(frozen=True)
class NativeGain:
    """Ratios of one row. Rows alternate: pairs/s are compared round by round; the median is reported."""

    row: str  # its name, as "native bf16"
    pairs: float  # all pairs/s ÷ onnxruntime fp32's
    text_query: float  # p50 of one text over 1,000 images: onnxruntime fp32's seconds ÷ this row's
    threads: float | None  # all pairs/s ÷ those of one thread; None with a single thread
    score_error: float | None  # the largest difference of its scores from float64


def native_gains(rows: Sequence[Row]) -> list[NativeGain]:
    """One per row of `native` that ran, if ONNX Runtime ran in FP32 on the CPU."""
    ran = [row for row in rows if row.reason is None and row.spec.device == "cpu" and row.rounds]
    base = next((row for row in ran if (row.spec.backend, row.spec.precision) == ("onnxruntime", "fp32")), None)
    if base is None:
        return []
    return [_gain(row, base) for row in ran if row.spec.backend == "native"]


def gains_text(gains: Sequence[NativeGain]) -> str:
    """One line per row."""
    lines = []
    for gain in gains:
        scaling = f"; {gain.threads:.2f} × its pairs/s with one thread" if gain.threads is not None else ""
        error = f"; scores within {gain.score_error:.1e} of float64" if gain.score_error is not None else ""
        lines.append(
            f"  {gain.row}: {gain.pairs:.1f} × the pairs/s, one text query {gain.text_query:.1f} × as fast"
            f"{scaling}{error}"
        )
    return "against onnxruntime fp32 on the CPU, in its best tiles:\n" + "\n".join(lines)


def _gain(row: Row, base: Row) -> NativeGain:
    assert row.text_query is not None and base.text_query is not None
    theirs = [r["pairs_per_second"] for r in base.rounds]
    ours = [r["pairs_per_second"] for r in row.rounds]
    alone = [r["pairs_per_second_of_one_thread"] for r in row.rounds]
    return NativeGain(
        row.name,
        _median_ratio(ours, theirs),
        base.text_query["p50"] / row.text_query["p50"],
        None if None in alone else _median_ratio(ours, alone),
        row.score_error,
    )


def _median_ratio(ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    return float(np.median(np.divide(ours, theirs)))
