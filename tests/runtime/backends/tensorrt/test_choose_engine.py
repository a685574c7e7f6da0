"""The choice of an engine from the manifest and the machine, and the messages about unusable ones."""

import json

import pytest

from caan._machine import has_nvidia_driver
from caan.bundle import open_bundle, write_manifest
from caan.engines.targets import rtx_capabilities
from caan.errors import BundleError, MissingError, install
from caan.runtime.backends.tensorrt.choose_engine import Machine, choose_engine, has_checked_engine, this_machine

VERSION = "1.7.1.116"
RTX = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
GPU = Machine({"tensorrt": VERSION, "tensorrt-rtx": VERSION}, "8.6", RTX)
NOTHING = Machine({}, None)


@pytest.fixture
def choose(tiny_bundle):
    """choose(machine, precision): the chosen engine's name."""

    def name(machine=GPU, precision="fp32", **options):
        return choose_engine(open_bundle(tiny_bundle), precision, lambda: machine, **options).name

    return name


@pytest.fixture
def refused(choose):
    """refused(error, *texts, machine=…): no engine is chosen, and the message contains every text."""

    def check(error, *texts, **options):
        with pytest.raises(error) as refusal:
            choose(**options)
        message = str(refusal.value)
        assert [text for text in texts if text not in message] == [], message
        assert len(message.splitlines()) == 1

    return check


def test_a_good_engine_is_taken(add_engine, choose):
    assert add_engine() == choose()


@pytest.mark.parametrize(
    ("precision", "command"),
    [("fp32", "caan-build-engine {} --fp32"), ("int8", "caan-build-engine {} --int8 --calibration-data DIR")],
)
def test_no_engine_of_this_precision(add_engine, refused, tiny_bundle, precision, command):
    add_engine("fp16")
    says = f"has no TensorRT engine of precision '{precision}'; build one: {command.format(tiny_bundle)}"
    refused(BundleError, "model.caan", says, precision=precision, machine=NOTHING)


@pytest.mark.parametrize(("target", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_a_target_that_is_not_installed(add_engine, refused, target, extra):
    add_engine(target=target)
    refused(MissingError, "needs TensorRT", install(extra), machine=NOTHING)


def test_no_gpu(add_engine, refused):
    add_engine()
    machine = Machine({"tensorrt-rtx": VERSION}, None, RTX)
    refused(MissingError, "needs an NVIDIA GPU and its driver", "caan doctor", machine=machine)


def test_an_engine_of_another_version(add_engine, refused, tiny_bundle):
    add_engine(version="1.6.0.1")
    command = f"caan-build-engine {tiny_bundle} --fp32 --target tensorrt-rtx"
    refused(BundleError, "was built with TensorRT for RTX 1.6.0.1", f"installed is {VERSION}", command)


@pytest.mark.parametrize(
    ("built", "installed", "loads"),
    [
        ("11.0.0.5", "11.0.0.5", True),
        ("11.0.0.5", "11.2.1.0", True),
        ("11.0.9.5", "11.0.10.1", True),
        ("11.2.1.0", "11.0.0.5", False),  # older than the builder
        ("10.9.0.1", "11.0.0.5", False),
    ],
)
def test_a_version_compatible_engine_loads_in_later_releases(add_engine, choose, refused, built, installed, loads):
    add_engine(target="tensorrt", version=built, options={"version_compatible": True})
    machine = Machine({"tensorrt": installed}, "9.0")
    if loads:
        assert choose(machine) == "tensorrt-fp32"
    else:
        refused(BundleError, f"was built with TensorRT {built}, installed is {installed}", machine=machine)


@pytest.mark.parametrize(
    ("named", "capability", "reason"),
    [
        ([], "8.6", None),
        (["8.6", "8.9"], "8.6", None),
        (["8.9", "12.0"], "8.6", "is for compute capability 8.9, 12.0, this GPU has 8.6"),
        ([], "7.5", "is for compute capability 8.0 and newer, this GPU has 7.5"),  # unless it is named
        (["7.5"], "7.5", None),
        ([], "9.0", "TensorRT for RTX supports 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; use TensorRT"),
    ],
)
def test_the_gpus_compute_capability_for_rtx(add_engine, choose, refused, tiny_bundle, named, capability, reason):
    add_engine(compute_capabilities=named)
    machine = Machine({"tensorrt-rtx": VERSION}, capability, RTX)
    if reason is None:
        assert choose(machine) == "tensorrt-rtx-fp32"
    else:
        refused(BundleError, reason, f"caan-build-engine {tiny_bundle} --fp32", machine=machine)


@pytest.mark.parametrize(
    ("named", "options", "capability", "loads"),
    [
        (["9.0"], {}, "9.0", True),
        (["9.0"], {}, "10.0", False),
        ([], {}, "10.0", True),  # unknown from the manifest; loading decides
        (["8.6"], {"hardware_compatible": True}, "10.0", True),
        (["8.6"], {"hardware_compatible": True}, "7.5", False),
    ],
)
def test_the_gpus_compute_capability_for_tensorrt(add_engine, choose, refused, named, options, capability, loads):
    add_engine(target="tensorrt", compute_capabilities=named, options=options)
    machine = Machine({"tensorrt": VERSION}, capability)
    if loads:
        assert choose(machine) == "tensorrt-fp32"
    else:
        refused(BundleError, f"this GPU has {capability}", f"--compute-capability {capability}", machine=machine)


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder", "scorer"])
def test_an_engine_of_another_graph_is_stale(add_engine, refused, tiny_bundle, graph):
    add_engine()
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["engines"]["tensorrt-rtx-fp32"]["onnx"][graph] = "0" * 64
    write_manifest(tiny_bundle, manifest)
    says = f"is stale: it was built from another {graph}"
    refused(BundleError, says, f"caan-build-engine {tiny_bundle} --fp32 --target tensorrt-rtx", machine=NOTHING)


def test_an_engine_whose_precision_is_gone_is_stale(add_engine, refused, tiny_bundle):
    add_engine(precision="fp16")
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    del manifest["precisions"]["fp16"]
    for graph in ("image_encoder", "text_encoder", "scorer"):
        (tiny_bundle / "onnx" / f"{graph}.fp16.onnx").unlink()
        del manifest["engines"]["tensorrt-rtx-fp16"]["onnx"][graph]
    write_manifest(tiny_bundle, manifest)
    refused(BundleError, "is stale", f"caan-build-engine {tiny_bundle} --fp16", precision="fp16")


def test_tensorrt_is_preferred_where_both_load(add_engine, choose, refused):
    add_engine(target="tensorrt-rtx")
    add_engine(target="tensorrt")
    assert choose() == "tensorrt-fp32"
    assert choose(Machine({"tensorrt-rtx": VERSION}, "8.6", RTX)) == "tensorrt-rtx-fp32"
    refused(MissingError, "tensorrt-fp32", "[gpu]", machine=NOTHING)


def test_the_first_that_is_for_this_gpu_is_taken(add_engine, choose):
    add_engine(suffix="-sm120", compute_capabilities=["12.0"])
    add_engine(suffix="-sm86", compute_capabilities=["8.6"])
    assert choose() == "tensorrt-rtx-fp32-sm86"


def test_auto_takes_only_checked_engines(add_engine, choose, refused):
    add_engine(target="tensorrt")
    refused(BundleError, "has no TensorRT engine", checked=True)
    add_engine(checks=[{"passed": False}, {"passed": True}])
    assert choose(checked=True) == "tensorrt-rtx-fp32"
    assert choose() == "tensorrt-fp32"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "tensorrt-lite"),
        ("target", None),
        ("version", 1),
        ("precision", None),
        ("compute_capabilities", "8.6"),
        ("options", []),
        ("profiles", {}),
        ("profiles", {"scorer": 5, "image_encoder": [], "text_encoder": []}),
        ("onnx", None),
    ],
)
def test_a_record_that_caan_did_not_write(add_engine, refused, tiny_bundle, key, value):
    name = add_engine()
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["engines"][name][key] = value
    write_manifest(tiny_bundle, manifest)
    refused(BundleError, "manifest.json", f"engines.tensorrt-rtx-fp32.{key}", "build the engine again")


def test_engines_that_are_not_an_object(refused, tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    write_manifest(tiny_bundle, {**manifest, "engines": ["tensorrt-fp32"]})
    refused(BundleError, "manifest.json", "no valid 'engines'", "build the engines again")


def test_an_engine_without_its_plan(add_engine, refused, tiny_bundle):
    name = add_engine()
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    (tiny_bundle / "engines" / name / "scorer.plan").unlink()
    write_manifest(tiny_bundle, manifest)
    refused(BundleError, f"does not list engines/{name}/scorer.plan")


@pytest.mark.parametrize("checks", [None, 5, [], [None], [{"passed": "yes"}], [{"passed": False}]])
def test_entries_without_a_passed_check(add_engine, tiny_bundle, monkeypatch, checks):
    monkeypatch.setattr("caan.runtime.backends.tensorrt.choose_engine.has_nvidia_driver", lambda: True)
    add_engine(checks=checks)
    assert not has_checked_engine(tiny_bundle, "fp32")


def test_a_passed_check_counts_where_there_is_a_driver(add_engine, tiny_bundle, monkeypatch):
    add_engine(checks=[{"passed": True}])
    for driver in (True, False):
        monkeypatch.setattr(
            "caan.runtime.backends.tensorrt.choose_engine.has_nvidia_driver", lambda driver=driver: driver
        )
        assert has_checked_engine(tiny_bundle, "fp32") == driver
        assert not has_checked_engine(tiny_bundle, "fp16")
        assert not has_checked_engine(tiny_bundle / "nowhere", "fp32")


@pytest.mark.skipif(has_nvidia_driver(), reason="this machine has an NVIDIA driver")
def test_this_machine_without_a_driver(add_engine, refused):
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    here = this_machine()
    assert here.versions["tensorrt-rtx"] == trt.__version__ and here.capability is None
    assert set(rtx_capabilities(trt)) >= {"8.6", "8.9", "12.0"}
    add_engine(version=trt.__version__)
    refused(MissingError, "needs an NVIDIA GPU and its driver", machine=here)
