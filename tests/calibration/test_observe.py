"""The inputs of matrix products, and their values in a run."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from caan.calibration.observe import activation_inputs, observe

W = np.arange(6, dtype=np.float32).reshape(3, 2)
C = np.array([[1, 2], [3, 4]], np.float32)


@pytest.fixture
def graph() -> onnx.ModelProto:
    """z = (x W) C, and its product with itself: y = zᵀ z."""
    nodes = [
        helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(C)),
        helper.make_node("MatMul", ["x", "w"], ["xw"], name="first"),
        helper.make_node("MatMul", ["xw", "c"], ["z"], name="second"),
        helper.make_node("Transpose", ["z"], ["zt"], name="turn"),
        helper.make_node("MatMul", ["zt", "z"], ["y"], name="third"),
        helper.make_node("MatMul", ["y", "y"], ["yy"], name="fourth"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("y", "yy")]
    model = helper.make_graph(nodes, "g", [x], outputs, [onnx.numpy_helper.from_array(W, "w")])
    return helper.make_model(model, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_weights_and_constants_are_no_activations(graph):
    expected = {"first": ["x"], "second": ["xw"], "third": ["zt", "z"], "fourth": ["y"]}
    assert activation_inputs(graph) == expected


def test_every_product_of_the_scorer_is_named_and_the_weight_vectors_are_not(bundle):
    result = activation_inputs(onnx.load(bundle.graph("scorer", "fp32")))
    pairs = ["H", "At_VQ2", "A_Hu", "Su", "Su_UQ5", "Hvt_VQ6", "av_V", "au_U"]
    assert {name: len(inputs) for name, inputs in result.items()} == {
        **{f"scorer/{name}": 2 for name in pairs},
        **{f"scorer/{name}": 1 for name in ("Zv_wv", "Zu_wu")},
    }


def test_inputs_outputs_and_inner_values_are_observed_over_feeds_of_different_shapes(graph):
    before = graph.SerializeToString()
    feeds = [{"x": np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)} for n in (1, 5, 2)]
    result = list(observe(graph, ["z", "x", "y"], feeds))
    assert len(result) == 3
    for feed, values in zip(feeds, result, strict=True):
        z = feed["x"] @ W @ C
        assert list(values) == ["z", "x", "y"]
        assert np.array_equal(values["x"], feed["x"])
        assert np.allclose(values["z"], z, rtol=1e-5, atol=1e-5)
        assert np.allclose(values["y"], z.T @ z, rtol=1e-5, atol=1e-5)
    assert graph.SerializeToString() == before


def test_one_feed_is_run_at_a_time(graph):
    calls = []

    def feeds():
        for n in range(1, 4):
            calls.append(n)
            yield {"x": np.ones((n, 3), np.float32)}

    values = observe(graph, ["z"], feeds())
    next(values)
    assert calls == [1]
