"""On a machine without a GPU that PyTorch can use, Triton's interpreter runs the kernel on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

# Before anything imports Triton, which looks only then.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

triton = pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def compile_ahead(tmp_path_factory):
    """compile_ahead(…): the kernels that `ahead.compile_ahead` makes, as dicts; "too large" for TooLargeError."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))

    def run(*case):
        command = [sys.executable, HERE / "compile_ahead.py", json.dumps(case)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return "too large" if done.stdout == "too large\n" else json.loads(done.stdout)

    return run


def pytest_collection_modifyitems(items):
    """Where the kernel runs on a GPU, what tests it here is part of `make test-gpu`."""
    if torch.cuda.is_available():
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(pytest.mark.gpu)
