"""Graphs of one EPContext node: valid, with the source graph's inputs and outputs, and beside each plan."""

from dataclasses import replace
from types import SimpleNamespace

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.bundle import GRAPHS, ep_context_file, graph_file, open_bundle, plan_file
from caan.export import engine_from_bundle as to_engine
from caan.export.engine_from_bundle import EngineJob, build_engine
from caan.export.ep_context import ep_context_graph, widest_first
from caan.export.plan_from_graph import BuildOptions
from caan.export.profiles import Profile, Range, Statistics, default_profiles

PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "tensorrt-rtx": "NvTensorRTRTXExecutionProvider"}


@pytest.fixture
def job(tiny_bundle, monkeypatch):
    """Builds without TensorRT: a plan's content is the name of its source."""
    monkeypatch.setattr(to_engine, "build_plan", lambda target, graph, *rest: graph.name.encode())
    bundle = open_bundle(tiny_bundle)
    profiles = default_profiles(bundle.config, bundle.manifest["limits"], Statistics.assumed(bundle.config))
    return EngineJob("fp32", SimpleNamespace(name="tensorrt", version="11.0"), profiles, BuildOptions())


@pytest.mark.parametrize("target", PROVIDERS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_it_is_valid_and_has_the_graph_s_inputs_and_outputs(tiny_bundle, graph, target):
    path = tiny_bundle / graph_file(graph, "fp32")
    made = ep_context_graph(SimpleNamespace(name=target, version="11.0"), path, f"{graph}.plan")
    onnx.checker.check_model(made, full_check=True)
    source = onnx.load(path)
    assert (list(made.graph.input), list(made.graph.output)) == (list(source.graph.input), list(source.graph.output))
    (node,) = made.graph.node
    assert (node.domain, node.op_type) == ("com.microsoft", "EPContext")
    assert {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute} == {
        "main_context": 1,
        "embed_mode": 0,
        "ep_cache_context": f"{graph}.plan".encode(),
        "ep_sdk_version": b"11.0",
        "source": PROVIDERS[target].encode(),
    }


def test_onnx_runtime_reads_it_and_wants_the_provider(tiny_bundle, tmp_path):
    ort = pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    target = SimpleNamespace(name="tensorrt-rtx", version="1.7")
    made = ep_context_graph(target, tiny_bundle / graph_file("text_encoder", "fp32"), "text_encoder.plan")
    onnx.save(made, tmp_path / "x.onnx")
    with pytest.raises(Exception, match="EPContext"):
        ort.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])


def test_a_build_puts_one_beside_each_plan_hashed_in_the_manifest(tiny_bundle, job):
    engine = build_engine(tiny_bundle, job).engine
    files = open_bundle(tiny_bundle).manifest["files"]
    for graph in GRAPHS:
        context = tiny_bundle / ep_context_file(graph, engine)
        assert (
            ep_context_file(graph, engine) in files
            and context.parent == (tiny_bundle / plan_file(graph, engine)).parent
        )
        (attribute,) = (a for a in onnx.load(context).graph.node[0].attribute if a.name == "ep_cache_context")
        assert (context.parent / attribute.s.decode()).read_bytes() == f"{graph}.fp32.onnx".encode()


def test_plans_without_weights_have_none(tiny_bundle, job):
    engine = build_engine(tiny_bundle, replace(job, options=BuildOptions(strip_weights=True))).engine
    assert not any(".epcontext." in name for name in open_bundle(tiny_bundle).manifest["files"])
    assert (tiny_bundle / plan_file("scorer", engine)).is_file()


def test_it_goes_with_its_stale_plan(tiny_bundle, job):
    first = build_engine(tiny_bundle, replace(job, precision="fp16")).engine
    other = SimpleNamespace(name="tensorrt-rtx", version="1.7")
    build_engine(tiny_bundle, replace(job, precision="fp16", target=other, keep_fp32=("scorer/Su",)))
    assert not (tiny_bundle / ep_context_file("scorer", first)).exists()
    assert not any(name.startswith(f"engines/{first}/") for name in open_bundle(tiny_bundle).manifest["files"])


def test_the_first_profile_takes_every_item_and_tiles(tiny_bundle, job):
    build_engine(tiny_bundle, job)
    bundle = open_bundle(tiny_bundle)
    (record,) = bundle.manifest["engines"].values()
    names = {graph: own[0]["name"] for graph, own in record["profiles"].items()}
    words = bundle.manifest["limits"]["words"]
    assert names == {"image_encoder": "chunk", "text_encoder": "chunk", "scorer": f"matrix-{words}"}


sizes = st.integers(1, 9).map(lambda size: Range(1, size, size))
profiles = st.builds(
    lambda *axes: Profile("x", dict(zip(("images", "regions", "captions", "words"), axes, strict=True)), {}),
    *[sizes] * 4,
)


@given(st.lists(profiles, min_size=1, max_size=6))
def test_none_is_lost_and_the_longest_items_come_first(some):
    first = widest_first(some)
    assert sorted(map(repr, first)) == sorted(map(repr, some))
    longest = max(profile.axes["regions"].max * profile.axes["words"].max for profile in some)
    assert first[0].axes["regions"].max * first[0].axes["words"].max == longest
