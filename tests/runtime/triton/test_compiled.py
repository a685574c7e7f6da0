"""What Triton makes of the kernel for real GPUs, none of which has to be there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Bytes of shared memory that a program may have, by compute capability.
SHARED = {80: 166_912, 90: 232_448, 120: 101_376}


@pytest.fixture
def compiled(tmp_path):
    """compiled(capability, dtype, regions, words): one record for each choice of blocks."""

    def run(*case):
        environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        environment["TRITON_CACHE_DIR"] = str(tmp_path)
        program = Path(__file__).with_name("compile_kernel.py")
        command = [sys.executable, program, json.dumps(case)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize(("capability", "dtype"), [(80, "fp16"), (90, "fp16"), (120, "bf16"), (90, "fp32")])
def test_the_usual_sizes_fit_registers_and_shared_memory(compiled, capability, dtype):
    """R = 36 and T = 14, padded."""
    found = compiled(capability, dtype, 64, 16)
    assert any(one["spilled"] == 0 and one["shared"] <= SHARED[capability] for one in found)
    assert all(one["tensor cores"] == (dtype != "fp32") and not one["tf32"] for one in found)


def test_the_largest_items_fit_shared_memory(compiled):
    assert any(one["shared"] <= SHARED[80] for one in compiled(80, "fp16", 128, 128))
