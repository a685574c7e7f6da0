"""The compiled scorer against the processor's roofline: a pair's arithmetic, limits from the same run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .pair_work import PairWork

if TYPE_CHECKING:
    from .rows import Row


@dataclass(frozen=True)
class Roofline:
    """One row's share of the limit set by the processor's FMA units and the fastest tanh; medians over rounds."""

    row: str
    flop_per_second: float  # the scorer's
    flop_limit: float  # fused multiply-adds on registers
    tanh_limit: float  # tanh per second on numbers in the L1 cache
    seconds_of_products: float  # of a pair, at the limit
    seconds_of_tanh: float
    fraction: float  # sum of both ÷ the measured time of a pair


def rooflines(rows: Sequence[Row]) -> list[Roofline]:
    """One per row of `native` that ran."""
    ran = [row for row in rows if row.reason is None and row.spec.backend == "native" and row.rounds]
    return [_roofline(row, row.pair_work) for row in ran if row.pair_work]


def rooflines_text(lines: Sequence[Roofline]) -> str:
    """One line per row."""
    text = [
        f"  {line.row}: {line.flop_per_second / 1e9:.0f} of {line.flop_limit / 1e9:.0f} GFLOP/s, and"
        f" {line.tanh_limit / 1e9:.0f} G tanh/s: {line.fraction:.2f} of the roofline"
        for line in lines
    ]
    return "against what the processor can do, measured in the same run:\n" + "\n".join(text)


def _roofline(row: Row, work: PairWork) -> Roofline:
    kind = "bf16" if row.spec.precision == "bf16" else "fp32"
    pairs = np.array([r["pairs_per_second"] for r in row.rounds])
    flop, tanh = (np.array([r["limits"][f"{kind}_{what}"] for r in row.rounds]) for what in ("flop", "tanh"))
    # Per round: the processor's clock rate varies, and limit and speed with it.
    limit = work.flop / flop + work.tanh / tanh
    return Roofline(
        row.name,
        float(np.median(pairs)) * work.flop,
        float(np.median(flop)),
        float(np.median(tanh)),
        float(np.median(work.flop / flop)),
        float(np.median(work.tanh / tanh)),
        float(np.median(limit * pairs)),
    )
