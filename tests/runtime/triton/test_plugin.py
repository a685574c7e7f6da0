"""The scorer of an engine as a plugin: NVIDIA's own half in Python takes it, and asks it for the right launches.

What a builder and a GPU would do is in stand_in_tensorrt.py and test_engine_on_gpu.py.
"""

import importlib.util
import json
import sys

import numpy as np
import pytest

# A machine that has little but a GPU may lack it (make gpu-record).
pytest.importorskip("hypothesis")
pytest.importorskip("tensorrt_rtx")
import tensorrt_rtx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caan.bundle import SCORER_WEIGHTS, open_bundle, write_manifest
from caan.errors import BundleError, InputError, MissingError, install
from caan.export.targets import open_target
from caan.runtime.triton import plugin
from caan.runtime.triton.ahead import AheadKernel
from caan.runtime.triton.launch import TooLargeError
from caan.runtime.triton.plugin import FusedScorer
from tests.conftest import add_half_precision
from tests.runtime.triton import stand_in_tensorrt
from tests.runtime.triton.stand_in_tensorrt import Network, launches
from tests.runtime.triton.test_ahead import split

KERNELS = [
    AheadKernel("one", "PTX of one", [(16, 8), (32, 4), (128, 1)], 256, 98304),
    AheadKernel("two", "PTX of two", [(512, 1)], 512, 16896),
]
LONGEST = (36, {14, 30})  # regions and words
counts = st.integers(1, 1000)


@pytest.fixture
def tensorrt(monkeypatch):
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("needs NVIDIA's Python half of TensorRT: pip install tensorrt-cu13-bindings")
    return stand_in_tensorrt.install(monkeypatch)


@pytest.fixture
def gpu(monkeypatch):
    """gpu(capability, cuda): the GPU that is found, with a driver for this CUDA."""

    class Gpu:
        def __init__(self, capability, cuda):
            self.capability, self.cuda = capability, cuda

        def open(self):
            return self

        def call(self, function):
            assert function == "cuDriverGetVersion"
            return self.cuda

    def find(capability, cuda=13000):
        monkeypatch.setattr(plugin, "Gpu", Gpu(capability, cuda))

    find("9.0")
    return find


@pytest.fixture
def compiled(monkeypatch, gpu):
    """What the kernel was asked to be compiled for; nothing is."""
    asked = []
    monkeypatch.setattr(plugin, "compile_ahead", lambda *arguments: asked.append(arguments) or KERNELS)
    return asked


def defined(trt, precision="fp16"):
    network = Network(trt)
    scorer = FusedScorer(trt, precision, {"image": 41, "text": 31}, np.ones((2, 7), np.float32), KERNELS)
    scorer(network)
    return network


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_inputs_and_output_are_the_graphs(tensorrt, tiny_bundle, precision):
    """So that the runtime sees no difference."""
    add_half_precision(tiny_bundle)
    graph = Network(tensorrt)
    parser = tensorrt.OnnxParser(graph.real, tensorrt.Logger(tensorrt.Logger.ERROR))
    assert parser.parse_from_file(str(tiny_bundle / "onnx" / f"scorer.{precision}.onnx"))
    assert inputs(defined(tensorrt, precision)) == inputs(graph)
    made, own = (network.get_output(0) for network in (defined(tensorrt, precision), graph))
    assert (made.name, made.dtype) == (own.name, own.dtype) == ("scores", tensorrt.float32)


def inputs(network):
    """Name, type, shape, and the names of the axes that are dynamic, of every input."""
    tensors = [network.get_input(number) for number in range(network.num_inputs)]
    return [
        (t.name, t.dtype, tuple(t.shape), [t.get_dimension_name(i) for i, size in enumerate(t.shape) if size < 0])
        for t in tensors
    ]


@settings(max_examples=25)
@given(st.fixed_dictionaries({"n": counts, "m": counts, "R": counts, "T": st.integers(1, 128)}))
@example({"n": 1, "m": 9, "R": 1, "T": 16})
@example({"n": 1, "m": 9, "R": 1, "T": 17})
@example({"n": 1, "m": 9, "R": 1, "T": 33})
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_tactic_is_launched_over_all_pairs(tensorrt, precision, sizes):
    found = launches(tensorrt, defined(tensorrt, precision), sizes)
    n, m = sizes["n"], sizes["m"]
    assert sorted(found) == [1, 2]
    for launch, kernel in zip([found[1], found[2]], KERNELS, strict=True):
        assert (launch.name, launch.ptx, launch.shared_mem) == (kernel.name, kernel.ptx, kernel.shared)
        assert (launch.block_x, launch.block_y, launch.block_z) == (kernel.threads, 1, 1)
        captions = next(captions for words, captions in kernel.widths if sizes["T"] <= words)
        assert (launch.grid_x, launch.grid_y, launch.grid_z) == (n * -(-m // captions), 1, 1)
        assert launch.arguments == [n, m, sizes["R"], sizes["T"]]


def test_the_launch_passes_what_the_ptx_takes(tensorrt, compile_ahead):
    """Pointers for tensors and 32-bit integers for sizes, in this order, and null for Triton's two."""
    kernels = [AheadKernel(**kernel) for kernel in compile_ahead((10, 7), 4.0, 36, [14], "fp32", (9, 0), (13, 0))]
    network = Network(tensorrt)
    FusedScorer(tensorrt, "fp32", {"image": 41, "text": 31}, np.ones((2, 7), np.float32), kernels)(network)
    for launch in launches(tensorrt, network, {"n": 2, "m": 3, "R": 36, "T": 14}).values():
        name, parameters, body = split(launch.ptx)
        assert name == launch.name and f".reqntid {launch.block_x}" in body
        assert parameters == ["u64"] * len(network.inputs) + ["u32"] * len(launch.arguments) + ["u64"] + ["u64"] * 2


def test_the_weights_are_a_constant_of_the_network(tensorrt):
    weights = np.arange(14, dtype=np.float32).reshape(2, 7)
    network = Network(tensorrt)
    FusedScorer(tensorrt, "fp32", {"image": 41, "text": 31}, weights, KERNELS)(network)
    layer = network.get_layer(0)
    layer.__class__ = tensorrt_rtx.IConstantLayer
    assert (np.asarray(layer.weights).reshape(2, 7) == weights).all()
    assert network.inputs[4].shape == (2, 7) and network.inputs[4].dtype == tensorrt.float32


def test_one_process_builds_many(tensorrt):
    """TensorRT takes a plugin's name once."""
    assert len({network.plugin.plugin_name for network in (defined(tensorrt), defined(tensorrt))}) == 2


def test_it_is_compiled_for_the_bundle_and_the_gpu_at_hand(tensorrt, gpu, compiled, tiny_folder):
    gpu("8.6", 13010)
    scorer = FusedScorer.open(open_bundle(tiny_folder / "model.caan"), tensorrt, "fp16", *LONGEST)
    assert compiled == [((10, 7), 4.0, *LONGEST, "fp16", (8, 6), (13, 1))]
    assert scorer.kernels == KERNELS


def test_a_module_without_such_plugins_is_refused(gpu, compiled, tiny_folder):
    """As TensorRT for RTX is, whose wheel names a module of plugins that is not there."""
    target = open_target("tensorrt-rtx")
    with pytest.raises(InputError, match=r"tensorrt_rtx .* has no ahead-of-time plugins.*--target tensorrt, 11"):
        FusedScorer.open(open_bundle(tiny_folder / "model.caan"), target.module, "fp16", *LONGEST)


def test_a_precision_that_is_not_the_kernels_is_refused(tensorrt, compiled, tiny_folder):
    with pytest.raises(InputError, match=r"computes in fp32, fp16, not in int8; leave out --fused-scorer"):
        FusedScorer.open(open_bundle(tiny_folder / "model.caan"), tensorrt, "int8", *LONGEST)
    assert compiled == []


def test_an_old_gpu_is_refused(tensorrt, gpu, compiled, tiny_folder):
    gpu("7.5")
    with pytest.raises(MissingError, match=r"compute capability 8\.0 or newer, this one has 7\.5; leave it out"):
        FusedScorer.open(open_bundle(tiny_folder / "model.caan"), tensorrt, "fp16", *LONGEST)


def test_too_large_profiles_say_which_and_what_helps(tensorrt, gpu, monkeypatch, tiny_folder):
    def too_large(*_):
        raise TooLargeError

    monkeypatch.setattr(plugin, "compile_ahead", too_large)
    with pytest.raises(InputError, match=r"36 regions × 30 words, in fp16 on this GPU\n.* --profile, or leave out"):
        FusedScorer.open(open_bundle(tiny_folder / "model.caan"), tensorrt, "fp16", *LONGEST)


def test_a_bundle_from_before_the_weights_file_says_how_to_make_it_anew(tensorrt, compiled, tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    (tiny_bundle / SCORER_WEIGHTS).unlink()
    write_manifest(tiny_bundle, manifest)
    with pytest.raises(BundleError, match=r"export the checkpoint again: caan-export"):
        FusedScorer.open(open_bundle(tiny_bundle), tensorrt, "fp16", *LONGEST)


def test_the_command_makes_it_for_what_the_profiles_allow(run, monkeypatch, tiny_bundle):
    """And hands it to the build: here it is the graph itself, which TensorRT for RTX can build."""
    asked = []

    def open_(bundle, trt, precision, regions, words):
        asked.append((bundle.folder, trt, precision, regions, sorted(words)))
        graph = bundle.graph("scorer", precision)
        return lambda network: trt.OnnxParser(network, trt.Logger()).parse_from_file(str(graph))

    monkeypatch.setattr(plugin.FusedScorer, "open", open_)
    options = ["--fp32", "--target", "tensorrt-rtx", "--fused-scorer"]
    for name, regions, words in (("short", 4, 9), ("long", 5, 20)):
        options += ["--profile", f"scorer:{name}:images=1/2/4,regions={regions},captions=1/2/4,words=1/2/{words}"]
    assert run("build-engine", tiny_bundle, *options).code == 0
    assert asked == [(tiny_bundle, tensorrt_rtx, "fp32", 5, [9, 20])]
    assert open_bundle(tiny_bundle).manifest["engines"]["tensorrt-rtx-fp32"]["options"]["fused_scorer"] is True


@pytest.mark.parametrize(
    ("options", "says", "code"),
    [
        (["--fp16", "--target", "tensorrt-rtx"], ["tensorrt_rtx", "no ahead-of-time plugins", "leave it out"], 2),
        (["--int8"], ["--fused-scorer and --int8 exclude each other"], 2),
        (["--fp16", "--hardware-compatible"], ["--fused-scorer and --hardware-compatible exclude each other"], 2),
        (["--fp16", "--version-compatible"], ["--fused-scorer and --version-compatible exclude each other"], 2),
        (["--fp16", "--strip-weights"], ["--fused-scorer and --strip-weights exclude each other"], 2),
    ],
)
def test_the_command_refuses_what_can_t_be_built(refused, tiny_bundle, options, says, code):
    refused("build-engine", tiny_bundle, *options, "--fused-scorer", says=says, code=code)


@pytest.mark.parametrize("package", ["triton", "torch"])
def test_without_a_package_the_command_says_how_to_install_it(refused, monkeypatch, tiny_bundle, package):
    for name in [name for name in sys.modules if name.startswith("caan.runtime.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    says = [f"--fused-scorer needs the package '{package}'; {install('triton')}"]
    refused("build-engine", tiny_bundle, "--fp16", "--target", "tensorrt-rtx", "--fused-scorer", says=says, code=4)
