"""The layers of an engine, from TensorRT's inspector, which needs a GPU and is simulated here."""

import json
from types import SimpleNamespace

import pytest

from caan._files import sha256_of
from caan.bundle import GRAPHS, graph_file, open_bundle, plan_file, write_manifest
from caan.engines.built_plans import remember_plan
from caan.errors import BundleError, MissingError
from caan.export import engine_layers as module
from caan.export.describe import Layer, Tensor
from caan.export.engine_layers import engine_layers
from caan.runtime.backends.tensorrt.choose_engine import Machine

ENGINE = "tensorrt-rtx-fp32"
TOLD = {
    "Layers": [
        {
            "Name": "scorer/H + scorer/tanh_H",
            "LayerType": "gemm",
            "Inputs": [
                {"Name": "a", "Dimensions": [-1, 36, 512], "Format/Datatype": "Int8"},
                {"Name": "b", "Dimensions": [512, -1], "Format/Datatype": "Half"},
            ],
            "Outputs": [{"Name": "h", "Dimensions": [-1, 36, -1], "Format/Datatype": "Half"}],
        },
        {
            "Name": "scorer/softmax_Hu",
            "LayerType": "kgen",
            "Inputs": [{"Name": "h", "Dimensions": [-1], "Format/Datatype": "Row major linear FP16 format"}],
            "Outputs": [{"Name": "s", "Dimensions": [-1], "Format/Datatype": "Row major linear FP32"}],
        },
        {
            "Name": "scorer/score",
            "LayerType": "kgen",
            "Inputs": [{"Name": "s", "Dimensions": [-1], "Format/Datatype": "Float"}],
            "Outputs": [],
        },
        {"Name": "shape", "LayerType": "shape_call", "Inputs": [], "Outputs": [{"Name": "n"}]},
        "scorer/Su",
    ],
    "Bindings": [],
}


@pytest.fixture
def with_engine(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    for graph in GRAPHS:
        (tiny_bundle / plan_file(graph, ENGINE)).parent.mkdir(parents=True, exist_ok=True)
        (tiny_bundle / plan_file(graph, ENGINE)).write_bytes(f"plan of {graph}".encode())
    engine = {
        "target": "tensorrt-rtx",
        "version": "1.7.1.116",
        "precision": "fp32",
        "compute_capabilities": [],
        "options": {},
        "profiles": {graph: [] for graph in GRAPHS},
        "onnx": {graph: bundle.hash_of(graph_file(graph, "fp32")) for graph in GRAPHS},
        "checks": [],
        "run": None,
    }
    write_manifest(tiny_bundle, {**bundle.manifest, "engines": {ENGINE: engine}})
    for graph in GRAPHS:
        remember_plan(sha256_of(tiny_bundle / plan_file(graph, ENGINE)))
    return tiny_bundle


@pytest.fixture
def gpu(monkeypatch):
    """A simulated GPU and TensorRT whose inspector reports TOLD; returns the loaded plans."""
    given = []

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            given.append(plan)
            inspector = SimpleNamespace(get_engine_information=lambda kind: json.dumps(TOLD) if kind == "json" else "")
            return SimpleNamespace(create_engine_inspector=lambda: inspector)

    logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})
    trt = SimpleNamespace(Runtime=Runtime, Logger=logger, LayerInformationFormat=SimpleNamespace(JSON="json"))
    monkeypatch.setattr(module, "this_machine", lambda: Machine({"tensorrt-rtx": "1.7.1.116"}, "8.6", ("8.6",)))
    monkeypatch.setattr(module, "installed_module", lambda target: trt)
    return SimpleNamespace(plans=given, trt=trt)


def test_layers_are_read_with_types_and_shapes(with_engine, gpu):
    plan, layers = engine_layers(with_engine, "scorer", "fp32")
    assert plan == f"engines/{ENGINE}/scorer.plan" and gpu.plans == [b"plan of scorer"]
    assert layers == [
        Layer("scorer/H + scorer/tanh_H", "gemm", "INT8", [Tensor("h", "float16", [None, 36, None])]),
        Layer("scorer/softmax_Hu", "kgen", "FP16", [Tensor("s", "float32", [None])]),
        Layer("scorer/score", "kgen", "FP32", []),
        Layer("shape", "shape_call", None, [Tensor("n", "?", [])]),
        Layer("scorer/Su", "–", None, []),
    ]


def test_a_bundle_without_an_engine_of_the_precision(tiny_folder, gpu):
    assert engine_layers(tiny_folder / "model.caan", "scorer", "fp32") is None


def test_an_engine_that_tensorrt_does_not_load(with_engine, gpu, monkeypatch):
    monkeypatch.setattr(gpu.trt.Runtime, "deserialize_cuda_engine", lambda self, plan: None)
    with pytest.raises(BundleError, match=r"does not load .*scorer.plan; build it again: caan-build-engine"):
        engine_layers(with_engine, "scorer", "fp32")


def test_no_gpu_here(with_engine, monkeypatch):
    monkeypatch.setattr(module, "this_machine", lambda: Machine({"tensorrt-rtx": "1.7.1.116"}, None))
    with pytest.raises(MissingError, match="needs an NVIDIA GPU"):
        engine_layers(with_engine, "scorer", "fp32")


def test_the_command_shows_the_engine_s_layers_under_the_graph_s(run, with_engine, gpu, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    out = run("inspect", with_engine, "--layers", "scorer").out
    graph, engine = out.split(f"{with_engine}/engines/{ENGINE}/scorer.plan: 5 layers\n")
    assert "scorer/softmax_Hu" in graph and "scorer/H + scorer/tanh_H" not in graph
    rows = [line.split("  ") for line in engine.splitlines()]
    assert [row[1] for row in rows[2:]] == [
        "scorer/H + scorer/tanh_H", "scorer/softmax_Hu", "scorer/score", "shape", "scorer/Su",
    ]  # fmt: skip
    assert "INT8" in engine and "? × 36 × ?" in engine
    result = json.loads(run("inspect", with_engine, "--layers", "scorer", "--json").out)
    assert result["engine"]["plan"] == f"engines/{ENGINE}/scorer.plan" and result["engine_not_inspected"] is None
    assert result["engine"]["layers"][0]["computes_in"] == "INT8"


def test_the_command_says_why_no_engine_was_inspected(run, with_engine, monkeypatch):
    monkeypatch.setattr(module, "this_machine", lambda: Machine({}, None))
    done = run("inspect", with_engine, "--layers", "scorer")
    assert done.code == 0
    assert f"engine not inspected: the engine {ENGINE} of {with_engine} needs TensorRT for RTX" in done.out
    result = json.loads(run("inspect", with_engine, "--layers", "scorer", "--json").out)
    assert result["engine"] is None and "needs TensorRT for RTX" in result["engine_not_inspected"]


def test_the_command_says_nothing_of_engines_where_there_is_none(run, tiny_folder):
    assert "engine" not in run("inspect", tiny_folder / "model.caan", "--layers", "scorer").out
