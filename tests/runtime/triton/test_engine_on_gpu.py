"""Engines that carry the kernel, and the kernel launched as they launch it (`make test-gpu`)."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import torch

from caan.data.scan import open_split
from caan.model.checkpoint import load_checkpoint
from caan.runtime import Retriever
from caan.runtime.tensorrt.engine import installed_module
from caan.runtime.triton.ahead import DTYPES, compile_ahead
from tests.conftest import exporter
from tests.runtime.triton.test_kernel import TOLERANCE, World, difference

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]

BUILD_ENGINE = [sys.executable, "-c", "from caan.cli import build_engine_main; build_engine_main()"]
TYPES = {"fp32": torch.float32, "fp16": torch.float16}
ENGINE_TOLERANCE = {"fp32": 1e-3, "fp16": 1e-2}  # the text encoder is an engine too
IMAGES, CAPTIONS = 40, 60


@pytest.fixture(scope="module")
def gpu():
    pytest.importorskip("cuda.core", reason="needs NVIDIA's bindings: pip install '.[gpu]'")
    from caan.runtime.tensorrt.cuda import Gpu

    return Gpu.open()


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("longest", [14, 30, 60])
@pytest.mark.parametrize("T", [3, 14, 17, 30])
def test_launched_by_the_driver_it_gives_the_same_scores(gpu, precision, longest, T):
    """With TensorRT's arguments and null for what it does not know of; shapes shorter than it was made for."""
    if longest < T:
        return
    n, R, m = 7, 30, 9
    world = World(0, n, R, m, T, 64, 48, dtype=TYPES[precision])
    version = gpu.call("cuDriverGetVersion")
    cuda = (version // 1000, version % 1000 // 10)
    kernels = compile_ahead(
        (64, 48), world.scale, 36, [14, longest], precision, torch.cuda.get_device_capability(), cuda
    )
    tensors = (world.image_states, world.image_lengths, world.text_states, world.text_lengths, world.weights)
    inputs = [tensor.contiguous().cuda() for tensor in tensors]
    for kernel in kernels:
        scores = torch.full((n, m), float("nan"), device="cuda")
        module = gpu.call("cuModuleLoadData", kernel.ptx.encode() + b"\0")
        function = gpu.call("cuModuleGetFunction", module, kernel.name.encode())
        values = (*(t.data_ptr() for t in inputs), n, m, R, T, scores.data_ptr(), 0, 0)
        kinds = (*[ctypes.c_void_p] * 5, *[ctypes.c_int32] * 4, *[ctypes.c_void_p] * 3)
        torch.cuda.synchronize()
        if kernel.shared > 48 << 10:
            attribute = gpu._driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            gpu.call("cuFuncSetAttribute", function, attribute, kernel.shared)
        captions = next(captions for words, captions in kernel.widths if words >= T)
        grid, block = (n * -(-m // captions), 1, 1), (kernel.threads, 1, 1)
        gpu.call("cuLaunchKernel", function, *grid, *block, kernel.shared, 0, (values, kinds), 0)
        gpu.call("cuCtxSynchronize")
        assert difference(scores.cpu(), world.expected()) <= TOLERANCE[TYPES[precision]], kernel[2:]
        gpu.call("cuModuleUnload", module)


@pytest.fixture(scope="module")
def world(demo_run):
    """(features (IMAGES, R, F), their lengths, captions) of the demo world, lengths ragged."""
    split = open_split(demo_run.data, "test")
    features = np.array(split.features[:IMAGES], np.float32)
    lengths = np.random.default_rng(0).integers(1, features.shape[1] + 1, len(features))
    return features, lengths, [caption.split() for caption in split.captions[:CAPTIONS]]


@pytest.fixture(scope="module")
def bundle(make_once, demo_run, world):
    """The demo's bundle with engines in FP32 and FP16 whose scorer is the kernel."""
    if installed_module("tensorrt") is None:
        pytest.skip("needs TensorRT: TensorRT for RTX has no plugins")
    regions = world[0].shape[1]

    def build(folder):
        path = folder / "model.caan"
        exporter()(load_checkpoint(demo_run.checkpoint), demo_run.checkpoint, path)
        command = [*BUILD_ENGINE, path, "--target", "tensorrt", "--fused-scorer"]
        for name, images, captions in (("search", "1/40/64", "1"), ("matrix", "1/32/64", "1/32/64")):
            axes = f"images={images},regions=1/{regions}/{regions},captions={captions},words=1/16/32"
            command += ["--profile", f"scorer:{name}:{axes}"]
        for precision in DTYPES:
            subprocess.run([*command, f"--{precision}", "--data", demo_run.data], check=True)

    return make_once("fused-engines", build) / "model.caan"


@pytest.mark.parametrize("precision", DTYPES)
def test_an_engine_with_the_kernel_scores_like_onnxruntime(bundle, world, precision):
    engine, graphs = (Retriever.open(bundle, backend, precision) for backend in ("tensorrt", "onnxruntime"))
    features, lengths, captions = world
    images = graphs.encode_images(features, lengths)
    expected = graphs.score_matrix(images, captions)
    for _ in range(4):  # from the third time on it is a CUDA graph
        found = engine.score_matrix(images, captions)
        assert np.isfinite(found).all() and np.abs(found - expected).max() <= ENGINE_TOLERANCE[precision]
    hits = engine.search(" ".join(captions[0]), images, k=5)
    assert all(abs(hit.score - expected[hit.index, 0]) <= ENGINE_TOLERANCE[precision] for hit in hits)
    engine.backend.close()
