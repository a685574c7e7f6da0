"""The tiny model's engines, and a machine with a GPU and TensorRT: stand_in_gpu.py and stand_in_tensorrt.py."""

import json

import onnx
import pytest

from caan.bundle import GRAPHS, INPUTS, graph_file, open_bundle, plan_file, write_manifest
from caan.engines.built_plans import remember_plan
from caan.runtime.backends.tensorrt import backend as tensorrt_backend
from caan.runtime.backends.tensorrt import choose_engine as engines
from tests.runtime.backends.tensorrt.stand_in_gpu import CAPABILITY, FakeGpu
from tests.runtime.backends.tensorrt.stand_in_tensorrt import (
    VERSION,
    FakeConfig,
    FakeContext,
    FakeEngine,
    FakeKernels,
    FakeTensorRT,
)


@pytest.fixture
def make_profile():
    """make_profile(graph, name, axis=(min, opt, max), …): a profile's entry in the tiny model's manifest."""
    columns = {"features": 12, "image_states": 41, "text_states": 31}

    def make(graph, name, **ranges):
        shapes = {}
        for tensor, axes in INPUTS[graph].items():
            last = [columns[tensor]] if tensor in columns else []
            limits = zip(*(ranges[axis] for axis in axes), strict=True)
            shapes[tensor] = dict(zip(("min", "opt", "max"), ([*size, *last] for size in limits), strict=True))
        return {"name": name, "shapes": shapes}

    return make


@pytest.fixture
def default_profiles(make_profile):
    """{graph: profiles} for the tiny model: 1 to 5 regions, 1 to 12 words, small tiles."""
    R, T, one = (1, 5, 5), (1, 12, 12), (1, 1, 1)
    return {
        "image_encoder": [make_profile("image_encoder", "chunk", images=(1, 4, 4), regions=R)],
        "text_encoder": [make_profile("text_encoder", "chunk", captions=(1, 5, 5), words=T)],
        "scorer": [
            make_profile("scorer", "search", images=(1, 9, 9), regions=R, captions=one, words=T),
            make_profile("scorer", "matrix", images=(1, 3, 3), regions=R, captions=(1, 4, 4), words=T),
        ],
    }


@pytest.fixture
def add_engine(tiny_bundle, default_profiles):
    """add_engine(precision="fp32", target="tensorrt-rtx", **entries): put an engine into the tiny bundle.

    Its plans say which ONNX graph to run and which profiles there are. fp16 adds the graphs, too. Returns its name.
    """

    def add(precision="fp32", target="tensorrt-rtx", profiles=default_profiles, **entries):
        manifest = json.loads((tiny_bundle / "manifest.json").read_text())
        name = f"{target}-{precision}{entries.pop('suffix', '')}"
        for graph in GRAPHS:
            path = tiny_bundle / graph_file(graph, precision)
            if not path.is_file():
                from caan.export.fp16 import to_fp16

                onnx.save(to_fp16(onnx.load(tiny_bundle / graph_file(graph, "fp32"))), path)
            plan = tiny_bundle / plan_file(graph, name)
            plan.parent.mkdir(parents=True, exist_ok=True)
            plan.write_text(json.dumps({"graph": graph, "onnx": str(path), "profiles": profiles[graph]}))
        manifest["precisions"].setdefault(precision, {"checks": []})
        write_manifest(tiny_bundle, manifest)
        bundle = open_bundle(tiny_bundle)
        record = {
            "target": target,
            "version": VERSION,
            "precision": precision,
            "compute_capabilities": [],
            "options": {"version_compatible": False, "hardware_compatible": False, "stripped": False},
            "profiles": profiles,
            "onnx": {graph: bundle.hash_of(graph_file(graph, precision)) for graph in GRAPHS},
            "checks": [],
            "run": None,
        }
        for graph in GRAPHS:
            remember_plan(bundle.hash_of(plan_file(graph, name)))
        manifest.setdefault("engines", {})[name] = {**record, **entries}
        write_manifest(tiny_bundle, manifest)
        return name

    return add


@pytest.fixture
def gpu():
    return FakeGpu()


@pytest.fixture
def trt(gpu):
    return FakeTensorRT(gpu)


@pytest.fixture
def on_a_gpu(monkeypatch, gpu, trt):
    """A machine with a GPU and both TensorRT variants installed."""
    look = engines.Machine({"tensorrt": VERSION, "tensorrt-rtx": VERSION}, CAPABILITY, ("7.5", "8.6", "12.0"))
    monkeypatch.setattr(tensorrt_backend, "this_machine", lambda: look)
    monkeypatch.setattr(tensorrt_backend, "installed_module", lambda target: trt)
    monkeypatch.setattr(tensorrt_backend.Gpu, "open", lambda: gpu)
    monkeypatch.setattr(engines, "has_nvidia_driver", lambda: True)


@pytest.fixture
def stand_ins(trt):
    """{name in TensorRT's module: its stand-in}."""
    return {
        "IExecutionContext": FakeContext,
        "ICudaEngine": FakeEngine,
        "IRuntimeConfig": FakeConfig,
        "IRuntimeCache": FakeKernels,
        "Runtime": trt.Runtime,
        "Refitter": trt.Refitter,
        "OnnxParserRefitter": trt.OnnxParserRefitter,
    }


@pytest.fixture
def stand_in_gpu():
    return FakeGpu
