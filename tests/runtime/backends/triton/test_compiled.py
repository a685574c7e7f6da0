"""The kernel compiled by Triton for real GPUs, none of which need be present."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Compute capability → bytes of shared memory per program.
SHARED = {80: 166_912, 89: 101_376, 90: 232_448, 120: 101_376}
FIRST, TWO_IMAGES = 0, 5  # in the list of choices of 2-byte numbers


@pytest.fixture
def compiled(tmp_path):
    """compiled(capability, dtype, regions, words, choices): one record per choice."""

    def run(*case):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = str(tmp_path)
        program = Path(__file__).with_name("compile_kernel.py")
        command = [sys.executable, program, json.dumps([case])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "dtype", "choices"),
    [(80, "fp16", [FIRST]), (90, "fp16", [FIRST, TWO_IMAGES]), (120, "bf16", [9]), (90, "fp32", [2])],
)
def test_the_usual_sizes_fit_registers_and_shared_memory(compiled, capability, dtype, choices):
    """R = 36 and T = 14, padded."""
    records = compiled(capability, dtype, 36, 14, choices)
    assert any(one["spilled"] == 0 for one in records)
    assert all(one["shared"] <= SHARED[capability] for one in records)
    expected = "none" if dtype == "fp32" else "wgmma + mma" if capability == 90 else "mma"
    assert all(one["products"] == expected and not one["tf32"] for one in records)
    if dtype != "fp32":
        # 48 regions and 16 words, of 1,024 columns: H's tanh is another
        assert all(one["tanh"] == (48 + 16) * 1024 for one in records)
    assert all(one["programs"] >= 1 and 0.05 < one["seconds"] < 5 for one in records)


def test_the_largest_items_fit_shared_memory(compiled):
    assert any(one["shared"] <= SHARED[80] for one in compiled(80, "fp16", 128, 128, [-1]))


@pytest.mark.attack
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_every_choice_compiles(compiled, capability, dtype):
    records = compiled(capability, dtype, 36, 14, "all")
    assert sum(one["shared"] <= SHARED[capability] for one in records) >= len(records) - 2
    assert any(one["spilled"] == 0 for one in records)
