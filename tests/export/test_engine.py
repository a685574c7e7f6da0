"""Plans, built for real with TensorRT for RTX, which needs no GPU: what comes out, what is refused, and Ctrl-C."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import warnings
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import tensorrt_rtx
from onnx import TensorProto, helper

from caan._machine import has_nvidia_driver
from caan.bundle import GRAPHS
from caan.errors import CaanWarning, ExportError, InputError
from caan.export import engine
from caan.export.engine import BuildOptions, build_plan, engine_name, engine_record, timing_cache_file
from caan.export.profiles import Statistics, default_profiles
from caan.export.targets import TIMING_CACHE, open_target

CONFIG = {"region_dim": 12, "embed_dim": 10, "attention_dim": 7, "num_regions": 5}
LIMITS = {"regions": 512, "words": 128}
PROFILES = default_profiles(CONFIG, LIMITS, Statistics.assumed(CONFIG))
ONE = PROFILES["image_encoder"][:1]


@pytest.fixture(scope="module")
def target():
    return open_target("tensorrt-rtx")


@pytest.fixture(scope="module")
def graphs(tiny_folder) -> dict[str, Path]:
    return {name: tiny_folder / "model.caan" / "onnx" / f"{name}.fp32.onnx" for name in GRAPHS}


@pytest.fixture(scope="module")
def plans(target, graphs) -> dict[str, bytes]:
    return {name: build_plan(target, graphs[name], PROFILES[name], BuildOptions()) for name in GRAPHS}


@pytest.fixture
def caching(target):
    """A target with a timing cache: TensorRT for RTX still has the calls, and warns that they do nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield replace(target, lacks={name: why for name, why in target.lacks.items() if name != TIMING_CACHE})


def write_graph(path, nodes, opset=18):
    """A graph of these nodes from `features` to `y`, (images, regions, 12) both."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["images", "regions", 12]) for name in ("features", "y")
    ]
    graph = helper.make_graph(nodes, "broken", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def test_each_graph_becomes_a_plan_of_its_own(plans):
    assert all(isinstance(plan, bytes) and len(plan) > 100_000 for plan in plans.values())
    assert len(set(plans.values())) == len(GRAPHS)


def test_a_plan_holds_every_profile(target, graphs, plans):
    one = build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions())
    three = build_plan(target, graphs["scorer"], PROFILES["scorer"][:3], BuildOptions())
    assert len(one) < len(three) < len(plans["scorer"])
    # Each profile brings its own code.
    assert len(three) > 2 * len(one)


class Forwarding:
    """Stands for another object, and remembers what is assigned to it."""

    def __init__(self, real, **own):
        vars(self).update(real=real, assigned={}, **own)

    def __getattr__(self, name):
        return getattr(self.real, name)

    def __setattr__(self, name, value):
        self.assigned[name] = value
        setattr(self.real, name, value)


def with_build(target, build):
    """The target with a builder that calls build(network, config) instead of building."""

    def builder(log):
        real = target.module.Builder(log)
        config = Forwarding(real.create_builder_config())
        return Forwarding(real, create_builder_config=lambda: config, build_serialized_network=build)

    module = ModuleType("changed")
    vars(module).update(vars(target.module), Builder=builder)
    return replace(target, module=module, lacks={TIMING_CACHE: ""})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (BuildOptions(), {}),
        (BuildOptions(("8.6", "12.0")), {"gpus": ["SM86", "SM120"]}),
        (BuildOptions(optimization_level=5), {"level": 5}),
        (BuildOptions(workspace_mib=256), {"workspace": 256 << 20}),
        (BuildOptions(version_compatible=True), {"flags": ["VERSION_COMPATIBLE"]}),
        (BuildOptions(strip_weights=True), {"flags": ["STRIP_PLAN"]}),
        (BuildOptions(hardware_compatible=True), {"hardware": tensorrt_rtx.HardwareCompatibilityLevel.AMPERE_PLUS}),
    ],
)
def test_options_reach_tensorrt(target, graphs, options, expected):
    trt, seen = target.module, {}

    def build(network, config):
        seen["typed"] = network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        seen["profiles"] = config.num_optimization_profiles
        seen["level"] = config.builder_optimization_level
        seen["workspace"] = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
        seen["gpus"] = [config.get_compute_capability(n).name for n in range(config.num_compute_capabilities)]
        flags = ("VERSION_COMPATIBLE", "STRIP_PLAN")
        seen["flags"] = [name for name in flags if config.get_flag(getattr(trt.BuilderFlag, name))]
        # TensorRT for RTX forgets the level at once.
        seen["hardware"] = config.assigned.get("hardware_compatibility_level")
        return b"plan"

    assert build_plan(with_build(target, build), graphs["scorer"], PROFILES["scorer"], options) == b"plan"
    # The default is the GPU's memory, or a lot where there is none.
    workspace = seen["workspace"] if seen["workspace"] > 1 << 30 else None
    usual = {"typed": True, "profiles": 9, "level": 3, "gpus": [], "flags": [], "hardware": None}
    assert seen == {**usual, "workspace": workspace, **expected}


def test_nothing_is_printed(target, graphs, capfd):
    build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions())
    assert capfd.readouterr() == ("", "")


def test_the_bar_shows_profile_after_profile_and_ends_full(target, graphs, monkeypatch):
    bar = RecordingBar()
    monkeypatch.setattr(engine, "tqdm", lambda **options: bar)
    profiles = PROFILES["scorer"][:4]
    build_plan(target, graphs["scorer"], profiles, BuildOptions())
    assert bar.names == ["", *(profile.name for profile in profiles), ""]
    assert bar.values == sorted(bar.values) and bar.values[0] == 0 and bar.values[-1] == 1
    for number, profile in enumerate(profiles):
        # Work on a profile moves the bar within the profile's share.
        during = bar.during[profile.name]
        assert number / len(profiles) < max(during) < (number + 1) / len(profiles)


class RecordingBar:
    """Takes the place of tqdm's bar."""

    def __init__(self):
        self.n, self.values, self.names, self.during = 0, [], [], {}

    def update(self, more):
        self.n += more
        self.values.append(self.n)
        self.during.setdefault(self.names[-1], []).append(self.n)

    def set_postfix_str(self, name, refresh):
        if not self.names or self.names[-1] != name:
            self.names.append(name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


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


@pytest.mark.parametrize("level", [0, 5])
def test_every_optimization_level_builds(target, graphs, level):
    assert build_plan(target, graphs["image_encoder"], ONE, BuildOptions(optimization_level=level))


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
    # TensorRT warns of this graph's lengths; a warning is no error either.
    assert build_plan(target, graphs["scorer"], PROFILES["scorer"][:1], BuildOptions())
    assert target.log.errors == [] and "draw" in str(first.value)


PROGRAM = """
import os, signal, sys
from pathlib import Path
from caan.export.engine import BuildOptions, build_plan
from caan.export.profiles import parse_profiles
from caan.export.targets import open_target
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
config, limits = {"region_dim": 12, "embed_dim": 10, "attention_dim": 7}, {"regions": 5, "words": 128}
axes = "captions=1,words=9,regions=5"
texts = [f"scorer:number-{n}:images={n}/{n + 1}/{n + 2},{axes}" for n in range(1, 1001)]
try:
    plan = build_plan(
        open_target("tensorrt-rtx"), Path(sys.argv[1]), parse_profiles(texts, config, limits)["scorer"], BuildOptions()
    )
    print("built", len(plan))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_stops_the_build_within_the_step_at_hand(graphs, tmp_path):
    """1,000 profiles would take minutes; the signal comes while TensorRT is at the third."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    program = [sys.executable, "-c", PROGRAM, str(graphs["scorer"])]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=theirs, text=True, cwd=tmp_path) as process:
        os.close(theirs)
        shown = b""
        while b"number-3" not in shown:
            shown += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out == "interrupted\n" and process.returncode == 0
    assert b"building scorer:   0%" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def given_caches(monkeypatch) -> list[bytes]:
    """The timing caches that TensorRT was given."""
    given, create = [], tensorrt_rtx.IBuilderConfig.create_timing_cache
    monkeypatch.setattr(
        tensorrt_rtx.IBuilderConfig,
        "create_timing_cache",
        lambda config, content: given.append(bytes(content)) or create(config, content),
    )
    return given


def test_a_timing_cache_is_kept_and_given_to_the_next_build(caching, graphs, tmp_path, given_caches):
    file = tmp_path / "folder" / "times"
    options = BuildOptions(timing_cache=file)
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaanWarning)
        build_plan(caching, graphs["image_encoder"], ONE, options)
        kept = file.read_bytes()
        build_plan(caching, graphs["image_encoder"], ONE, options)
    assert given_caches[0] == b"" and len(given_caches[1]) > 100 and kept.endswith(given_caches[1])
    assert [path.name for path in file.parent.iterdir()] == ["times"]


def test_a_timing_cache_of_another_gpu_is_dropped(caching, graphs, tmp_path, monkeypatch, given_caches):
    options = BuildOptions(timing_cache=tmp_path / "times")
    build_plan(caching, graphs["image_encoder"], ONE, options)
    monkeypatch.setattr(tensorrt_rtx.IBuilderConfig, "set_timing_cache", lambda config, timings, ignore: False)
    with pytest.warns(CaanWarning, match="was not used: TensorRT does not take it"):
        build_plan(caching, graphs["image_encoder"], ONE, options)
    assert given_caches[-1] == b""


def test_complaints_about_a_missing_driver_do_not_hide_the_reason(caching, graphs, tmp_path):
    options = BuildOptions(timing_cache=tmp_path / "times")
    build_plan(caching, graphs["image_encoder"], ONE, options)
    other = default_profiles({**CONFIG, "region_dim": 13}, LIMITS, Statistics.assumed(CONFIG))["image_encoder"][:1]
    # Reading a timing cache, TensorRT looks for a GPU, and says first of all that there is none.
    with pytest.raises(ExportError, match=r"fp32\.onnx: Dimension mismatch for tensor features"):
        build_plan(caching, graphs["image_encoder"], other, options)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:-1] + b"?", lambda b: b"?" + b[1:]])
def test_a_damaged_timing_cache_is_dropped(caching, graphs, tmp_path, damage):
    file = tmp_path / "times"
    options = BuildOptions(timing_cache=file)
    build_plan(caching, graphs["image_encoder"], ONE, options)
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    with pytest.warns(CaanWarning, match=f"the timing cache {file} was not used: it is damaged"):
        build_plan(caching, graphs["image_encoder"], ONE, options)
    assert len(file.read_bytes()) == len(whole)


def test_a_timing_cache_that_can_t_be_kept_does_not_fail_the_build(caching, graphs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(CaanWarning) as caught:
        assert build_plan(caching, graphs["image_encoder"], ONE, BuildOptions(timing_cache=tmp_path / "file" / "times"))
    assert "the timing cache is not kept: can't write" in str(caught[-1].message)


def test_the_default_timing_cache_is_per_version_and_device(caching, graphs, monkeypatch):
    monkeypatch.setattr(engine, "nvidia_gpus", lambda: ["NVIDIA A, 580, 8 GiB"])
    first = timing_cache_file(caching)
    assert first.parent == Path(os.environ["CAAN_CACHE"]) / "timing"
    assert first.name.startswith(f"{caching.name}-{caching.version}-")
    build_plan(caching, graphs["image_encoder"], ONE, BuildOptions())
    assert first.is_file()
    monkeypatch.setattr(engine, "nvidia_gpus", lambda: ["NVIDIA B, 580, 8 GiB"])
    assert timing_cache_file(caching) != first


def test_a_target_without_a_timing_cache_leaves_none(target, graphs, monkeypatch, tmp_path):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path))
    build_plan(target, graphs["image_encoder"], ONE, BuildOptions())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capabilities", "name"),
    [
        ((), "tensorrt-rtx-fp16"),
        (("8.6",), "tensorrt-rtx-fp16-sm86"),
        (("8.6", "12.0"), "tensorrt-rtx-fp16-sm86-sm120"),
    ],
)
def test_an_engine_is_named_for_target_precision_and_capabilities(target, capabilities, name):
    assert engine_name(target, "fp16", capabilities) == name


def test_the_record_of_an_engine(target):
    options = BuildOptions(("8.6",), optimization_level=4, workspace_mib=256)
    record = engine_record(target, "int8", options, PROFILES, {"scorer": "abc"})
    assert record == {
        "target": "tensorrt-rtx",
        "version": target.version,
        "precision": "int8",
        "compute_capabilities": ["8.6"],
        "options": {
            "optimization_level": 4,
            "workspace_mib": 256,
            "version_compatible": False,
            "hardware_compatible": False,
            "stripped": False,
        },
        "profiles": {graph: [profile.as_dict() for profile in own] for graph, own in PROFILES.items()},
        "onnx": {"scorer": "abc"},
    }
    assert json.loads(json.dumps(record)) == record
