"""TensorRT's modules have the names and arguments the runtime uses.

No engine runs without a GPU, so this holds the stand-ins beside it, on which everything else is tested, and the
calls in plans.py to the API of the module that is installed.
"""

import inspect
import json
import re

import pytest

from caan._machine import has_nvidia_driver
from caan.bundle import open_bundle, write_manifest
from caan.engines.log import log_of
from caan.engines.record import engine_records
from caan.errors import BundleError
from caan.runtime.backends.tensorrt.cuda import Gpu
from caan.runtime.backends.tensorrt.plans import _DIAGNOSES, load_plan

# Method → names of its arguments, from the bindings' docstrings.
CALLS = {
    "Runtime": {"deserialize_cuda_engine": ["serialized_engine"]},
    "ICudaEngine": {
        "get_tensor_dtype": ["name"],
        "get_tensor_location": ["name"],
        "get_tensor_name": ["index"],
        "get_tensor_profile_shape": ["name", "profile_index"],
        "get_tensor_shape": ["name"],
        "create_execution_context": ["strategy"],
    },
    "IExecutionContext": {
        "execute_async_v3": ["stream_handle"],
        "get_tensor_shape": ["name"],
        "infer_shapes": [],
        "set_device_memory": ["memory", "size"],
        "set_input_shape": ["name", "shape"],
        "set_optimization_profile_async": ["profile_index", "stream_handle"],
        "set_tensor_address": ["name", "memory"],
    },
    "Refitter": {"__init__": ["engine", "logger"], "get_missing_weights": [], "refit_cuda_engine": []},
    "OnnxParserRefitter": {"__init__": ["refitter", "logger"], "refit_from_file": ["model"]},
}
RTX_CALLS = {
    "Runtime": {"get_engine_validity": ["buffer"]},
    "ICudaEngine": {"create_runtime_config": []},
    "IExecutionContext": {"is_stream_capturable": ["stream"]},
    "IRuntimeConfig": {
        "create_runtime_cache": [],
        "set_execution_context_allocation_strategy": ["strategy"],
        "set_runtime_cache": ["cache"],
    },
    "IRuntimeCache": {"deserialize": ["blob"], "serialize": []},
}
PROPERTIES = {
    "Runtime": ["engine_host_code_allowed"],
    "ICudaEngine": ["device_memory_size_v2", "num_io_tensors", "num_optimization_profiles"],
}


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def module(request):
    return pytest.importorskip(request.param, reason="not installed")


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")


def arguments(function):
    """The arguments of the first signature in a pybind11 docstring."""
    signature = re.search(r"\((self.*?)\) ->", function.__doc__.replace("*args, **kwargs", ""), re.DOTALL)
    return [part.split(":")[0].strip() for part in signature[1].split(", ")[1:] if ":" in part]


def assert_calls(module, calls):
    for name, methods in calls.items():
        for method, expected in methods.items():
            assert arguments(getattr(getattr(module, name), method)) == expected, (name, method)


def test_every_call_is_in_the_module(module):
    assert_calls(module, CALLS)
    for name, properties in PROPERTIES.items():
        assert [each for each in properties if not hasattr(getattr(module, name), each)] == []
    assert module.ExecutionContextAllocationStrategy.USER_MANAGED != module.ExecutionContextAllocationStrategy.STATIC
    assert module.TensorLocation.DEVICE != module.TensorLocation.HOST
    assert module.nptype(module.DataType.HALF).__name__ == "float16"
    assert module.nptype(module.DataType.INT64).__name__ == "int64"


def test_what_tensorrt_for_rtx_has_in_addition(rtx):
    assert_calls(rtx, RTX_CALLS)
    assert hasattr(rtx.IRuntimeConfig, "cuda_graph_strategy")
    assert rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE != rtx.CudaGraphStrategy.DISABLED
    assert set(rtx.EngineInvalidityDiagnostics.__members__) == set(_DIAGNOSES)
    assert rtx.EngineValidity.INVALID != rtx.EngineValidity.SUBOPTIMAL


def test_the_stand_ins_have_nothing_tensorrt_lacks(rtx, stand_ins):
    invented = {
        (name, each)
        for name, stand_in in stand_ins.items()
        for each in vars(stand_in)
        if not each.startswith("_") and not hasattr(getattr(rtx, name), each)
    }
    assert invented == set()


def test_the_stand_in_gpu_has_the_gpu_s_interface(stand_in_gpu):
    for name, method in vars(Gpu).items():
        if not name.startswith("_") and name not in ("open", "call"):
            parameters = [inspect.signature(each).parameters for each in (method, getattr(stand_in_gpu, name))]
            assert list(parameters[0]) == list(parameters[1]), name


@pytest.mark.skipif(has_nvidia_driver(), reason="this machine has an NVIDIA driver")
def test_a_real_plan_without_a_driver_is_refused_with_a_reason(rtx, add_engine, tiny_bundle, default_profiles, capfd):
    """The furthest a real plan gets here: TensorRT's message is passed on, not printed."""
    name = add_engine()
    plan = build(rtx, tiny_bundle / "onnx" / "scorer.fp32.onnx", default_profiles["scorer"])
    (tiny_bundle / "engines" / name / "scorer.plan").write_bytes(plan)
    write_manifest(tiny_bundle, json.loads((tiny_bundle / "manifest.json").read_text()))
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(BundleError, match=r"scorer\.plan can't be loaded here: .*CUDA driver.*; build it"):
        load_plan(rtx, engine_records(bundle)[0], bundle, "scorer", "8.6")
    runtime = rtx.Runtime(log_of(rtx))
    assert runtime.deserialize_cuda_engine(plan) is None
    assert "CUDA driver" in log_of(rtx).errors[-1]
    assert capfd.readouterr().out == ""


def build(trt, graph, profiles):
    """The plan of an ONNX graph, with profiles as a manifest has them."""
    builder = trt.Builder(log_of(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, log_of(trt)).parse_from_file(str(graph))
    config = builder.create_builder_config()
    for entry in profiles:
        profile = builder.create_optimization_profile()
        for tensor, shapes in entry["shapes"].items():
            profile.set_shape(tensor, *(shapes[key] for key in ("min", "opt", "max")))
        config.add_optimization_profile(profile)
    return bytes(builder.build_serialized_network(network, config))
