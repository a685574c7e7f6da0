"""Without a GPU usable by PyTorch, Triton's interpreter runs the kernel on the CPU."""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

# Before anything imports Triton, which reads it only then.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

triton = pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def pytest_collection_modifyitems(items):
    """If the kernel runs on a GPU, its tests here are part of `make test-gpu`."""
    if torch.cuda.is_available():
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(pytest.mark.gpu)
