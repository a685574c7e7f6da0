"""The gallery to search."""

import pytest

from caan.runtime import Retriever


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1)
