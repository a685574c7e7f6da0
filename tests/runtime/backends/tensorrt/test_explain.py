"""Explaining and expanding with an engine: states from its encoders, arithmetic by ONNX Runtime."""

import numpy as np
import pytest

from caan.runtime import Retriever


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 1e-2)])
def test_an_engine_explains_as_onnx_runtime_does(add_engine, tiny_bundle, on_a_gpu, precision, tolerance):
    add_engine(precision)
    engine, graphs = Retriever.open(tiny_bundle, "tensorrt", precision), Retriever.open(tiny_bundle, "onnxruntime")
    features = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    found, expected = engine.explain(features, "w1 w2 w3"), graphs.explain(features, "w1 w2 w3")
    assert found.words == expected.words and abs(found.score - expected.score) <= tolerance
    for name in ("H", "Hu", "Hv", "av", "au"):
        values = getattr(found, name)
        assert values.dtype == np.float32 and np.abs(values - getattr(expected, name)).max() <= tolerance, name
    states = engine.backend.encode_images(features[None])
    assert np.abs(engine.backend.expand_regions(states[..., :10]) - states).max() <= tolerance
