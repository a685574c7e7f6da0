"""The arithmetic behind "fraction of the roofline", and how long a speed is measured."""

import time
from pathlib import Path

import numpy as np
import pytest

from caan.bench.pair_work import pair_work
from caan.bench.roofline import rooflines
from caan.bench.rows import Row
from caan.bench.timing import sustained_seconds
from caan.bench.worker import RowSpec

PAPER = {"embed_dim": 1024, "attention_dim": 1024}


def test_a_pair_of_the_papers_size_costs_5_66_megaflop_and_52_thousand_tanh():
    work = pair_work(PAPER, np.array([36]), np.array([14]))
    assert work.flop == 2 * 36 * 14 * 1024 * 5 + 2 * 14**2 * 1024 + 2 * (36 + 14) * 1024
    assert work.flop == pytest.approx(5.66e6, rel=1e-3)
    assert work.tanh == 50 * 1024 + 36 * 14


def test_unequal_lengths_count_every_pair():
    regions, words = np.array([3, 9]), np.array([2, 5, 8])
    each = [pair_work(PAPER, np.array([r]), np.array([t])) for r in regions for t in words]
    work = pair_work(PAPER, regions, words)
    assert work.flop == pytest.approx(np.mean([w.flop for w in each]))
    assert work.tanh == pytest.approx(np.mean([w.tanh for w in each]))


def test_the_fraction_is_the_time_that_both_limits_allow_over_the_time_taken():
    row = _row("native", "bf16")
    (line,) = rooflines([row, _row("onnxruntime", "fp32")])
    # 4 µs of products and 1 µs of tanh, where a pair took 10.
    assert line.fraction == pytest.approx(0.5) and line.row == "native bf16"
    assert line.seconds_of_products == pytest.approx(4e-6) and line.seconds_of_tanh == pytest.approx(1e-6)


def test_a_fast_call_is_repeated_for_as_long_as_a_slow_one():
    calls = []
    took = sustained_seconds(lambda: calls.append(time.sleep(0.002)), at_least=0.05)
    assert len(calls) > 1 and took * len(calls) >= 0.05


def _row(backend: str, precision: str) -> Row:
    work = pair_work(PAPER, np.array([36]), np.array([14]))
    limits = {"bf16_flop": work.flop / 4e-6, "bf16_tanh": work.tanh / 1e-6, "fp32_flop": 1.0, "fp32_tanh": 1.0}
    spec = RowSpec(backend, backend, Path("model.caan"), precision)
    rounds = [{"pairs_per_second": 1e5, "limits": limits}] * 3
    return Row(spec, pair_work=work, rounds=rounds)
