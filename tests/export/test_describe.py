"""Describing a bundle: shapes and types from its graphs, profiles and staleness from its manifest, without crashes."""

import json
import re
import shutil
import sys

import onnx
import pytest
from onnx import TensorProto, helper

from caan.bundle import GRAPHS, SIDE_GRAPHS, graph_file, open_bundle, plan_file, write_manifest
from caan.errors import BundleError, MissingError
from caan.export import describe as module
from caan.export.describe import Tensor, describe, describe_layers
from caan.export.profiles import Statistics, default_profiles

ENGINE = "tensorrt-rtx-fp32"


@pytest.fixture
def with_engine(tiny_bundle):
    """The tiny bundle with a manifest entry of an engine built from its FP32 graphs."""
    bundle = open_bundle(tiny_bundle)
    for graph in GRAPHS:
        (tiny_bundle / plan_file(graph, ENGINE)).parent.mkdir(parents=True, exist_ok=True)
        (tiny_bundle / plan_file(graph, ENGINE)).write_bytes(b"plan of " + graph.encode())
    profiles = default_profiles(bundle.config, bundle.manifest["limits"], Statistics.assumed(bundle.config))
    engine = {
        "target": "tensorrt-rtx",
        "version": "1.7.1.116",
        "precision": "fp32",
        "compute_capabilities": [],
        "options": {"optimization_level": 3, "workspace_mib": None, "stripped": False},
        "profiles": {graph: [profile.as_dict() for profile in own] for graph, own in profiles.items()},
        "onnx": {graph: bundle.hash_of(graph_file(graph, "fp32")) for graph in GRAPHS},
        "checks": [],
        "run": "engine not run: no NVIDIA GPU here",
    }
    write_manifest(tiny_bundle, {**bundle.manifest, "engines": {ENGINE: engine}})
    return tiny_bundle


@pytest.fixture
def no_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "caan.export.audit", raising=False)


def rewrite(bundle, *keys, value):
    """Change one entry of the manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    inner = manifest
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    (bundle / "manifest.json").write_text(json.dumps(manifest, indent=2))


def mixed_graph():
    """A scorer of a few nodes: a product in INT8, a tanh in FP16, a cast, a softmax in FP32; names are arbitrary."""
    scale = helper.make_tensor("scale", TensorProto.FLOAT16, [], [0.1])
    zero = helper.make_tensor("zero", TensorProto.INT8, [], [0])
    nodes = [
        helper.make_node("Constant", [], ["axis"], "c", value=helper.make_tensor("v", TensorProto.INT64, [1], [1])),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], "dequantise"),
        helper.make_node("Transpose", ["d"], ["t"], "turn", perm=[0, 2, 1]),
        helper.make_node("QuantizeLinear", ["t", "scale", "zero"], ["tq"], "quantise_t"),
        helper.make_node("DequantizeLinear", ["tq", "scale", "zero"], ["td"], "dequantise_t"),
        helper.make_node("MatMul", ["d", "td"], ["m"], "product"),
        helper.make_node("Tanh", ["m"], ["h"], "tanh"),
        helper.make_node("Concat", ["h", "h"], ["hh"], "twice", axis=2),
        helper.make_node("Cast", ["hh"], ["w"], "widen", to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["w"], ["y"], "softmax", axis=-1),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["images", "regions", 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["images", "regions", "twice"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [scale, zero])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])


def add_precision(bundle, precision, scorer):
    """A precision with the FP32 encoders and this scorer."""
    for graph in GRAPHS:
        shutil.copy(bundle / graph_file(graph, "fp32"), bundle / graph_file(graph, precision))
    onnx.save(scorer, bundle / graph_file("scorer", precision))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["precisions"][precision] = {"checks": [], "status": "ungated"}
    write_manifest(bundle, manifest)


def test_the_ends_of_every_graph_are_told_with_types_and_axes(tiny_folder):
    result = describe(tiny_folder / "model.caan")
    scorer = result.ends["fp32"]["scorer"]
    assert scorer.inputs == [
        Tensor("image_states", "float32", ["images", "regions", 41]),
        Tensor("image_lengths", "int64", ["images"]),
        Tensor("text_states", "float32", ["captions", "words", 31]),
        Tensor("text_lengths", "int64", ["captions"]),
    ]
    assert scorer.outputs == [Tensor("scores", "float32", ["images", "captions"])]
    assert set(result.ends["fp32"]) == {*GRAPHS, *SIDE_GRAPHS}
    assert [end.name for end in result.ends["fp32"]["explainer"].outputs] == ["scores", "H", "Hu", "Hv", "av", "au"]
    assert result.ends["fp32"]["expander"].inputs == [Tensor("regions", "float32", ["images", "regions", 10])]


def test_a_bundle_older_than_the_fp32_graphs_has_no_ends_of_them(tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    for graph in SIDE_GRAPHS:
        (tiny_bundle / graph_file(graph, "fp32")).unlink()
    write_manifest(tiny_bundle, manifest)
    assert set(describe(tiny_bundle).ends["fp32"]) == set(GRAPHS)


def test_a_bundle_without_engines_has_no_profiles(tiny_folder):
    result = describe(tiny_folder / "model.caan")
    assert (result.profiles, result.stale) == ({}, {})


def test_a_profile_s_shapes_become_ranges_of_axes(with_engine):
    bundle = open_bundle(with_engine)
    expected = default_profiles(bundle.config, bundle.manifest["limits"], Statistics.assumed(bundle.config))
    result = describe(with_engine).profiles[ENGINE]
    assert {g: [(p.name, p.axes) for p in own] for g, own in result.items()} == {
        g: [(p.name, p.axes) for p in own] for g, own in expected.items()
    }


def test_an_engine_of_the_bundle_s_graphs_is_not_stale(with_engine):
    assert describe(with_engine).stale == {ENGINE: []}


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_engine_of_another_graph_is_stale_by_that_graph(with_engine, graph):
    rewrite(with_engine, "engines", ENGINE, "onnx", graph, value="0" * 64)
    assert describe(with_engine).stale == {ENGINE: [graph]}


def test_an_engine_whose_precision_is_gone_is_stale_altogether(with_engine):
    rewrite(with_engine, "engines", ENGINE, "precision", value="fp16")
    assert describe(with_engine).stale == {ENGINE: list(GRAPHS)}


def test_without_onnx_there_are_no_ends_and_no_layers(with_engine, no_onnx):
    result = describe(with_engine)
    assert result.ends is None and result.as_dict()["graphs"] is None
    assert result.profiles[ENGINE]["scorer"]
    with pytest.raises(MissingError, match=r"needs the package 'onnx'; pip install '.*\[export\]'"):
        describe_layers(with_engine, "scorer", "fp32")


def test_every_node_of_a_graph_is_a_layer(tiny_folder):
    folder = tiny_folder / "model.caan"
    for graph in GRAPHS:
        nodes = onnx.load(folder / graph_file(graph, "fp32")).graph.node
        layers = describe_layers(folder, graph, "fp32")
        assert [(layer.name, layer.op) for layer in layers] == [
            (node.name, node.op_type) for node in nodes if node.op_type != "Constant"
        ]


def test_an_fp32_graph_computes_in_fp32(tiny_folder):
    layers = {layer.name: layer for layer in describe_layers(tiny_folder / "model.caan", "scorer", "fp32")}
    assert {layer.computes_in for layer in layers.values()} == {"FP32", None}
    assert layers["scorer/softmax_Hu"].computes_in == layers["scorer/Su"].computes_in == "FP32"


def test_a_mixed_graph_is_told_node_by_node(tiny_bundle):
    add_precision(tiny_bundle, "int8", mixed_graph())
    layers = describe_layers(tiny_bundle, "scorer", "int8")
    assert [(layer.name, layer.computes_in) for layer in layers] == [
        ("quantise", None),
        ("dequantise", None),
        ("turn", None),
        ("quantise_t", None),
        ("dequantise_t", None),
        ("product", "INT8"),
        ("tanh", "FP16"),
        ("twice", None),
        ("widen", None),
        ("softmax", "FP32"),
    ]
    outputs = {layer.name: layer.outputs for layer in layers}
    assert outputs["quantise"] == [Tensor("q", "int8", ["images", "regions", 8])]
    assert outputs["product"] == [Tensor("m", "float16", ["images", "regions", "regions"])]
    assert outputs["widen"] == [Tensor("w", "float32", ["images", "regions", "2·regions"])]


def test_inner_axes_are_told_as_products_of_the_outer_ones(tiny_folder):
    layers = {layer.name: layer for layer in describe_layers(tiny_folder / "model.caan", "scorer", "fp32")}
    assert layers["scorer/H"].outputs[0].axes == ["images·regions", "captions·words"]
    assert layers["scorer/softmax_Hu"].outputs[0].axes == ["images", "captions", "regions", "words"]
    assert layers["scorer/score_ReduceSum"].outputs[0].axes == ["images", "captions"]


def test_an_axis_that_onnx_can_t_infer_has_no_invented_name(tiny_folder):
    known = r"\d+|(2·)?(images|regions|captions|words)(·(images|regions|captions|words))*|None"
    for graph in GRAPHS:
        for layer in describe_layers(tiny_folder / "model.caan", graph, "fp32"):
            for tensor in layer.outputs:
                assert [axis for axis in tensor.axes if not re.fullmatch(known, str(axis))] == []


def test_layers_of_a_precision_that_is_not_there(tiny_folder):
    with pytest.raises(BundleError, match="has no precision 'int8'; it has: fp32"):
        describe_layers(tiny_folder / "model.caan", "scorer", "int8")


def test_a_bundle_replaced_meanwhile_is_read_again(with_engine, monkeypatch):
    read_ends, calls = module._all_ends, []

    def replace_then_read(bundle):
        if not calls:
            manifest = json.loads((with_engine / "manifest.json").read_text())
            write_manifest(with_engine, {**manifest, "engines": {}, "tokenizer": "word-punct"})
        calls.append(bundle)
        return read_ends(bundle)

    monkeypatch.setattr(module, "_all_ends", replace_then_read)
    result = describe(with_engine)
    assert len(calls) == 2
    assert (result.bundle.manifest["tokenizer"], result.profiles) == ("word-punct", {})


def unknown_operator():
    """A graph that ONNX rejects with a multi-line message."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Nonsense", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x00" * 50, unknown_operator()])
def test_a_graph_that_is_none_is_named(tiny_bundle, content):
    (tiny_bundle / "onnx" / "scorer.fp32.onnx").write_bytes(content)
    write_manifest(tiny_bundle, json.loads((tiny_bundle / "manifest.json").read_text()))
    with pytest.raises(BundleError, match=r"scorer\.fp32\.onnx can't be read as ONNX") as caught:
        describe_layers(tiny_bundle, "scorer", "fp32")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_plan_that_the_manifest_does_not_list(with_engine, graph):
    manifest = json.loads((with_engine / "manifest.json").read_text())
    del manifest["files"][plan_file(graph, ENGINE)]
    (with_engine / "manifest.json").write_text(json.dumps(manifest, indent=2))
    with pytest.raises(BundleError, match=f"does not list engines/{ENGINE}/{graph}.plan; build the engine again"):
        describe(with_engine)


SHAPE = {"min": [1, 5, 12], "opt": [1, 5, 12], "max": [1, 5, 12]}


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["caan"], 5),
        (["checkpoint"], {"file": 5}),
        (["tools"], {"torch": 2}),
        (["checkpoint"], {"metrics": {}}),
        (["precisions", "fp32"], None),
        (["precisions", "fp32", "checks"], {}),
        (["precisions", "fp32", "checks"], [{"data": "x"}]),
        (["precisions", "fp32", "checks"], [{"what": "x", "errors": {"scorer": 10**400}}]),
        (["precisions", "fp32", "status"], True),
        (["precisions", "fp32", "nodes"], {"scorer": {"macs": {}}}),
        (["precisions", "fp32", "nodes"], {"scorer": {"macs": {"INT8": -1, "FP16": 1}, "nodes": {}}}),
        (["precisions", "fp32", "kept_fp32"], "scorer/H"),
        (["precisions", "fp32", "kept_fp16"], [5]),
        (["precisions", "fp32", "sensitivity"], [{"node": "scorer/H"}]),
        (["precisions", "fp32", "calibration"], {"method": "mse"}),
        (["engines"], []),
        (["engines", ENGINE], "x"),
        (["engines", ENGINE, "target"], None),
        (["engines", ENGINE, "compute_capabilities"], "8.6"),
        (["engines", ENGINE, "options"], {"workspace_mib": []}),
        (["engines", ENGINE, "run"], False),
        (["engines", ENGINE, "checks"], [{"what": "x", "errors": None}]),
        (["engines", ENGINE, "profiles"], {"scorer": [{"name": "p", "shapes": {"tokens": {"min": [1, 2]}}}]}),
        (["engines", ENGINE, "profiles"], {"scorer": [{"name": "p", "shapes": {"features": {**SHAPE, "min": [1]}}}]}),
    ],
)
def test_an_entry_that_is_not_what_caan_writes(with_engine, keys, value):
    rewrite(with_engine, *keys, value=value)
    with pytest.raises(BundleError, match=r"manifest\.json has no valid '") as caught:
        describe(with_engine)
    remedy = "build the engine" if keys[0] == "engines" else "export the checkpoint again"
    assert ".".join(keys) in str(caught.value) and remedy in str(caught.value)
