"""Every backend that runs on a CPU."""

import pytest

from caan.runtime import Retriever


@pytest.fixture(scope="module", params=["onnxruntime", "native", "torch"])
def retriever(request, tiny_folder):
    if request.param == "native":
        pytest.importorskip("caan_native", reason="needs the package caan_native; make native builds it")
    path = tiny_folder / ("model.pt" if request.param == "torch" else "model.caan")
    return Retriever.open(path, request.param)
