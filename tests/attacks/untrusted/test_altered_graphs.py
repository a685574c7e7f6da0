"""Graphs with features caan does not export, or other inputs and outputs: refused at once, in one sentence."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper

from caan.bundle import write_manifest
from caan.errors import CaanError
from caan.runtime import Retriever
from tests.attacks.untrusted.altered_graphs import CASES, DISTRUST, GRAPH, SCORER, altered


@pytest.fixture
def alter(tiny_bundle):
    """alter(change, file=GRAPH): the tiny bundle with one graph changed and the manifest updated."""

    def make(change, file=GRAPH):
        manifest = json.loads((tiny_bundle / "manifest.json").read_text())
        (tiny_bundle / file).write_bytes(altered((tiny_bundle / file).read_bytes(), change))
        write_manifest(tiny_bundle, manifest)
        return tiny_bundle

    return make


@pytest.mark.parametrize("name", CASES)
def test_the_runtime_refuses_it(refused, alter, tiny_data, name):
    change, says = CASES[name]
    refused("eval", alter(change), "--data", tiny_data, says=[GRAPH if DISTRUST in says else "model.caan", *says])


@pytest.mark.parametrize("name", CASES)
def test_no_engine_is_built_from_it(refused, alter, name):
    pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    change, says = CASES[name]
    refused("build-engine", alter(change), "--fp16", says=says)


@pytest.mark.parametrize("file", ["onnx/explainer.fp32.onnx", "onnx/expander.fp32.onnx"])
def test_the_explainer_and_expander_are_checked_too(alter, file):
    change, says = CASES["an initializer in another file"]
    retriever = Retriever.open(alter(change, file), "onnxruntime")
    use = {
        "onnx/explainer.fp32.onnx": lambda: retriever.explain(np.ones((5, 12), np.float32), "w1"),
        "onnx/expander.fp32.onnx": lambda: retriever.backend.expand_regions(np.ones((1, 1, 10), np.float32)),
    }
    with pytest.raises(CaanError) as refusal:
        use[file]()
    assert all(text in str(refusal.value) for text in [file, *says])


def test_scores_of_one_image_are_not_spread_over_all(alter):
    """Its output is declared correctly, but the actual one has one row, which NumPy would broadcast."""

    def first_image_alone(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            for number, name in enumerate(node.output):
                node.output[number] = "all" if name == "scores" else name
        for name, value in (("start", 0), ("end", 1), ("axis", 0)):
            model.graph.initializer.append(helper.make_tensor(name, onnx.TensorProto.INT64, [1], [value]))
        model.graph.node.append(helper.make_node("Slice", ["all", "start", "end", "axis"], ["scores"]))

    retriever = Retriever.open(alter(first_image_alone, SCORER), "onnxruntime")
    gallery = retriever.encode_images(np.ones((3, 5, 12), np.float32))
    with pytest.raises(CaanError, match=r"scorer of this bundle made scores of shape \(1, 1\) where \(3, 1\)"):
        retriever.search("w1", gallery, 2)


def test_a_graph_onnx_runtime_can_not_compute_gives_no_traceback(alter):
    def narrow(model: onnx.ModelProto) -> None:
        weight = next(w for w in model.graph.initializer if list(w.dims) == [12, 10])
        weight.CopyFrom(onnx.numpy_helper.from_array(np.ones((11, 10), np.float32), weight.name))

    with pytest.raises(CaanError, match=r"ONNX Runtime .* (failed|can't load)"):
        Retriever.open(alter(narrow), "onnxruntime").encode_images(np.ones((1, 5, 12), np.float32))


def test_a_graph_in_two_parts_is_read_as_one(refused, tiny_bundle, tiny_data):
    """Protobuf merges repeated occurrences of a message: a second graph's weights are added to the first's."""
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    more = onnx.ModelProto()
    more.graph.initializer.append(helper.make_tensor("more", onnx.TensorProto.FLOAT, [1], [1.0]))
    more.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    content = (tiny_bundle / GRAPH).read_bytes() + more.SerializeToString()
    assert len(onnx.load_from_string(content).graph.node) > 1
    (tiny_bundle / GRAPH).write_bytes(content)
    write_manifest(tiny_bundle, manifest)
    refused("eval", tiny_bundle, "--data", tiny_data, says=[GRAPH, "weights in another file"])
