"""Plans that can't be built: options, graphs and profiles that TensorRT rejects, and the error messages."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from caan._machine import has_nvidia_driver
from caan.errors import ExportError, InputError
from caan.export.plan_from_graph import BuildOptions, build_plan
from caan.export.profiles import Statistics, default_profiles
from caan.export.targets import TIMING_CACHE
from tests.export.conftest import CONFIG, LIMITS, ONE, PROFILES, with_build


def write_graph(path, nodes, opset=18):
    """A graph of these nodes from `features` to `y`, both (images, regions, 12)."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["images", "regions", 12]) for name in ("features", "y")
    ]
    graph = helper.make_graph(nodes, "broken", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"version_compatible": True}, "no --version-compatible"),
        ({"hardware_compatible": True}, "no --hardware-compatible"),
        ({"timing_cache": Path("times")}, "no timing cache"),
        ({"compute_capabilities": ("9.0",)}, "no compute capability '9.0'; it has: 7.5, 8.0, 8.6"),
    ],
)
def test_an_option_that_the_target_does_not_have_is_refused(target, graphs, options, says):
    with pytest.raises(InputError, match=says):
        build_plan(target, graphs["image_encoder"], ONE, BuildOptions(**options))


@pytest.mark.skipif(has_nvidia_driver(), reason="with a GPU it may strip weights")
def test_weights_are_not_stripped_without_a_gpu(target, graphs):
    with pytest.raises(InputError, match=r"no --strip-weights: .*no driver is visible here"):
        build_plan(target, graphs["image_encoder"], ONE, BuildOptions(strip_weights=True))


@pytest.mark.parametrize("options", [{"version_compatible": True}, {"strip_weights": True}])
def test_what_is_refused_would_not_build(target, graphs, options):
    if options == {"strip_weights": True} and has_nvidia_driver():
        pytest.skip("with a GPU it may strip weights")
    with pytest.raises(ExportError, match=r"can't build image_encoder\.fp32\.onnx: "):
        build_plan(replace(target, lacks={TIMING_CACHE: ""}), graphs["image_encoder"], ONE, BuildOptions(**options))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimization_level": 6}, "optimization level is 0 to 5, not 6"),
        ({"optimization_level": -1}, "optimization level is 0 to 5, not -1"),
        ({"workspace_mib": 0}, "workspace is at least 1 MiB, not 0"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        BuildOptions(**options)


def test_an_operator_that_tensorrt_does_not_have_is_named_with_its_node(target, tmp_path):
    nodes = [
        helper.make_node("Bernoulli", ["features"], ["a"], name="image_encoder/draw"),
        helper.make_node("Multinomial", ["a"], ["b"], name="image_encoder/other"),
        helper.make_node("Relu", ["b"], ["y"], name="image_encoder/last"),
    ]
    graph = write_graph(tmp_path / "image_encoder.fp16.onnx", nodes)
    with pytest.raises(ExportError) as error:
        build_plan(target, graph, ONE, BuildOptions())
    first, second = str(error.value).splitlines()
    assert f"{target} can't take the node 'image_encoder/draw' (Bernoulli) of image_encoder.fp16.onnx" in first
    assert "the operator is not supported (1 more error)" in first
    assert "pip install -U tensorrt-rtx-cu13" in second and "--keep-fp32 'image_encoder/draw'" in second


def test_types_that_do_not_fit_are_refused_not_cast(target, tmp_path):
    nodes = [
        helper.make_node("Cast", ["features"], ["half"], to=TensorProto.FLOAT16, name="image_encoder/half"),
        helper.make_node("Add", ["half", "features"], ["y"], name="image_encoder/sum"),
    ]
    graph = write_graph(tmp_path / "image_encoder.fp32.onnx", nodes)
    with pytest.raises(ExportError) as error:
        build_plan(target, graph, ONE, BuildOptions())
    first, second = str(error.value).splitlines()
    assert "'image_encoder/sum' (Add)" in first and "types Half and Float" in first
    # An FP32 graph has no node left to keep.
    assert "/_src" not in first and "Error Code" not in first and "--keep-fp32" not in second


@pytest.mark.parametrize("content", [b"no graph" * 99, None])
def test_a_file_that_is_no_graph_is_refused(target, tmp_path, content):
    graph = tmp_path / "scorer.fp32.onnx"
    if content is not None:
        graph.write_bytes(content)
    with pytest.raises(ExportError, match=r"can't read .*scorer\.fp32\.onnx: .*export the checkpoint again"):
        build_plan(target, graph, ONE, BuildOptions())


def test_a_profile_of_another_model_is_refused(target, graphs):
    other = default_profiles({**CONFIG, "region_dim": 13}, LIMITS, Statistics.assumed(CONFIG))["image_encoder"]
    with pytest.raises(ExportError, match="Dimension mismatch for tensor features and profile 0") as error:
        build_plan(target, graphs["image_encoder"], other, BuildOptions())
    assert len(str(error.value).splitlines()) == 2 and "cudaError" not in str(error.value)


def test_too_small_a_workspace_says_so(target, graphs):
    with pytest.raises(ExportError, match=r"no tactics .*\n.*more memory than --workspace 1 \(MiB\)"):
        build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions(workspace_mib=1))


def test_a_precision_that_a_gpu_does_not_have_says_so(target, graphs):
    with pytest.raises(ExportError, match=r"'image_encoder/XW' for Turing .*\n.*try --fp16, or another"):
        build_plan(target, graphs["image_encoder"], ONE, BuildOptions(("7.5",)))


def test_when_memory_runs_out_the_build_fails_with_a_remedy(target, graphs):
    def exhausted(network, config):
        raise MemoryError

    with pytest.raises(ExportError, match="gave no reason, as when memory runs out\n--profile with smaller shapes"):
        build_plan(with_build(target, exhausted), graphs["image_encoder"], ONE, BuildOptions())


def test_one_build_s_errors_are_not_the_next_one_s(target, graphs, tmp_path):
    broken = write_graph(tmp_path / "a.fp32.onnx", [helper.make_node("Bernoulli", ["features"], ["y"], name="draw")])
    with pytest.raises(ExportError) as first:
        build_plan(target, broken, ONE, BuildOptions())
    # TensorRT warns about this graph's lengths; warnings are not errors.
    assert build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions())
    assert target.log.errors == [] and "draw" in str(first.value)
