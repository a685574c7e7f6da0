"""Estimates for a choice of the GPU kernel: from instruction counts to seconds and the limiting unit."""

from collections import Counter
from types import SimpleNamespace

import pytest

from caan.bench.kernel_on_paper import GPUS, label, predict, products, programs_at_once, tables
from caan.errors import MissingError

PAIRS = 1000 * 5000
CLOCKS = 132 * 1.98e9  # of all processors in a second


def choice(images=1, captions=4, warps=4):
    return SimpleNamespace(images=images, captions=captions, block_d=64, block_a=16, warps=warps, stages=2, split=True)


def compiled(registers=128, shared=40 << 10):
    return SimpleNamespace(registers=registers, shared=shared)


def clocks(instructions, **kind):
    return predict(Counter(instructions), choice(**kind), compiled(), 2).clocks


@pytest.mark.parametrize(
    ("instruction", "unit", "expected"),
    [
        ("MUFU.TANH", "special functions", 2),  # 32 threads, 16 a clock
        ("FFMA", "float", 1 / 4),
        ("F2FP.F16.F32.PACK_AB", "integer", 1 / 2),
        ("LDS.64", "shared memory", 2),
        ("LDGSTS.E.BYPASS.128", "shared memory", 4),
        ("LDSM.16.M88.4", "shared memory", 4),
        ("LDSM.16.M88", "shared memory", 1),
        ("SHFL.BFLY", "shared memory", 1),
        ("HMMA.16816.F32.BF16", "tensor cores", 1 / 0.63),
        # 64 × 32 × 16 by four warps; from shared memory, 32 × 16 numbers of the right side, 64 × 16 of the left too
        ("HGMMA.64x32x16.F32.registers", "tensor cores", 16 / 4 / (790 / 1070)),
        ("HGMMA.64x32x16.F32.registers", "shared memory", 8 / 4),
        ("HGMMA.64x32x16.F32.shared", "shared memory", 24 / 4),
    ],
)
def test_what_an_instruction_costs(instruction, unit, expected):
    """If four warps score four pairs, a pair's clocks are those of one warp."""
    result = clocks([instruction])
    assert result[unit] == pytest.approx(expected) and result["issue"] == 1 / 4


def test_shared_loads_cost_less_per_pair():
    one, two, eight = (clocks([], **kind) for kind in ({}, {"images": 2}, {"captions": 8}))
    image, text = 5 * 36 * 1024 * 2 / 28, 4 * 14 * 1024 * 2 / 28
    assert one["L2"] == pytest.approx(image / 4 + text)
    assert two["L2"] == pytest.approx(image / 4 + text / 2)
    assert eight["L2"] == pytest.approx(image / 8 + text)


def test_the_slowest_unit_binds():
    result = predict(Counter({"MUFU.TANH": 100_000, "FFMA": 100_000}), choice(), compiled(), 2)
    assert result.binding == "special functions"
    assert result.least == pytest.approx(PAIRS * 200_000 / CLOCKS)
    # Registers for 4 programs of 4 warps: each scheduler has 4 to hide the additions
    assert (result.programs, result.warps) == (4, 16)
    assert result.expected == pytest.approx(PAIRS * (200_000 + 25_000 / 4) / CLOCKS)


@pytest.mark.parametrize(
    ("registers", "shared", "capability", "programs"),
    [(255, 8 << 10, 90, 2), (128, 8 << 10, 90, 4), (128, 100 << 10, 90, 2), (128, 100 << 10, 120, 0), (32, 0, 89, 12)],
)
def test_resident_programs_per_sm(registers, shared, capability, programs):
    assert programs_at_once(compiled(registers, shared), choice(), capability) == programs


def test_names():
    assert label(choice(images=2)) == "2 × 4, 64/16, 4 w, 2 st"
    assert products(Counter(["HMMA.16816.F32", "HGMMA.64x32x16.F32.shared"])) == "wgmma + mma"
    assert products(Counter(["FFMA"])) == "none"
    assert set(GPUS) >= {80, 89, 90, 120}


def test_triton_s_interpreter_is_refused(monkeypatch):
    launch = pytest.importorskip("caan.runtime.backends.triton.launch", reason="needs Triton: pip install '.[triton]'")
    monkeypatch.setattr(launch, "INTERPRETED", True)
    with pytest.raises(MissingError, match="TRITON_INTERPRET"):
        next(tables(print))
