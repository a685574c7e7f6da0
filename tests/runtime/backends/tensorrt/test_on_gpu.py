"""On a machine with a GPU only: engines against ONNX Runtime on the CPU (`make test-gpu`)."""

import gc
import shutil
import subprocess
import sys
import threading

import numpy as np
import onnxruntime
import pytest

from caan._machine import has_nvidia_driver
from caan.engines.targets import installed_module, rtx_capabilities
from caan.errors import InputError
from caan.runtime import Retriever
from caan.runtime.backends.contract import Tile
from caan.runtime.backends.tensorrt.cuda import Gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not has_nvidia_driver(), reason="needs an NVIDIA GPU: there is no driver here"),
]

WORDS = [f"w{number}" for number in range(20)]
BUILD_ENGINE = [sys.executable, "-c", "from caan.cli import build_engine_main; build_engine_main()"]
TOLERANCE = {"fp32": 2e-3, "fp16": 1e-2}  # of scores in [-1, 1]; TensorRT may use TF32 for FP32


@pytest.fixture(scope="module")
def gpu():
    return Gpu.open()


@pytest.fixture(scope="module")
def target(gpu):
    if installed_module("tensorrt") is not None:
        return "tensorrt"
    rtx = installed_module("tensorrt-rtx")
    if rtx is None:
        pytest.skip("needs TensorRT or TensorRT for RTX")
    if gpu.capability not in rtx_capabilities(rtx):
        pytest.skip(f"TensorRT for RTX does not support this GPU's compute capability {gpu.capability}")
    return "tensorrt-rtx"


@pytest.fixture(scope="module")
def bundle(make_once, tiny_folder, target):
    """The tiny bundle with engines in FP32 and FP16 for this GPU."""

    def build(folder):
        shutil.copytree(tiny_folder / "model.caan", folder / "model.caan")
        for precision in ("--fp32", "--fp16"):
            subprocess.run([*BUILD_ENGINE, folder / "model.caan", precision, "--target", target], check=True)

    return make_once(f"engines-{target}", build) / "model.caan"


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def pair(request, bundle):
    """(Retriever of the engine, Retriever of the same graphs in ONNX Runtime on the CPU)."""
    both = [Retriever.open(bundle, backend, request.param) for backend in ("tensorrt", "onnxruntime")]
    yield both
    both[0].backend.close()


@pytest.fixture
def world():
    """(features (40, 5, 12), their lengths, captions)."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((40, 5, 12)).astype(np.float32)
    return features, generator.integers(1, 6, 40), [list(generator.choice(WORDS, 1 + n % 12)) for n in range(60)]


def assert_near(pair, actual, expected):
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max() <= TOLERANCE[pair[0].backend.precision]


def test_states_and_scores_are_those_of_the_graphs(pair, world):
    engine, graphs = pair
    features, lengths, captions = world
    images, texts = engine.encode_images(features, lengths), engine.encode_captions(captions)
    assert_near(pair, images.states.astype(float), graphs.encode_images(features, lengths).states.astype(float))
    assert_near(pair, texts.states.astype(float), graphs.encode_captions(captions).states.astype(float))
    expected = graphs.score_matrix(images, captions)
    for _ in range(3):
        assert_near(pair, engine.score_matrix(images, captions), expected)
        assert_near(pair, engine.score_matrix(images, texts), expected)


def test_repeated_searches_give_the_same_scores(pair, world):
    """From the third time on it is a CUDA graph, over a gallery cached on the device."""
    engine, graphs = pair
    gallery = engine.encode_images(world[0])
    expected = graphs.score_matrix(gallery, ["w1 w2 w3"])
    actual = [engine.score_matrix(gallery, ["w1 w2 w3"]) for _ in range(12)]
    for scores in actual:
        assert_near(pair, scores, expected)
    assert all((scores == actual[-1]).all() for scores in actual[-4:])


def test_alternating_shapes_do_not_affect_each_other(pair, world):
    engine, graphs = pair
    features, lengths, captions = world
    galleries = [engine.encode_images(features[:n], lengths[:n]) for n in (1, 7, 40)]
    queries = [captions[:1], captions[:5], captions]
    expected = {(i, j): graphs.score_matrix(g, q) for i, g in enumerate(galleries) for j, q in enumerate(queries)}
    for _ in range(6):
        for (i, j), scores in expected.items():
            assert_near(pair, engine.score_matrix(galleries[i], queries[j]), scores)


def test_galleries_that_come_and_go_are_not_mixed_up(pair):
    engine, graphs = pair
    for seed in range(10):
        features = np.random.default_rng(seed).standard_normal((20, 5, 12)).astype(np.float32)
        gallery = engine.encode_images(features)
        expected = graphs.score_matrix(gallery, ["w1 w2"])
        for _ in range(4):
            assert_near(pair, engine.score_matrix(gallery, ["w1 w2"]), expected)
        del gallery
        gc.collect()


def test_threads_share_one_backend(pair, world):
    engine, graphs = pair
    features, lengths, captions = world
    gallery, failures = engine.encode_images(features, lengths), []
    expected = graphs.score_matrix(gallery, captions)

    def work():
        for _ in range(10):
            try:
                assert_near(pair, engine.score_matrix(gallery, captions), expected)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_tile_beyond_the_profiles_is_refused_and_the_next_one_runs(pair, world):
    engine, _ = pair
    dtype, words = engine.backend.state_dtype, engine.backend.model.limits["words"] + 1
    tile = Tile(
        np.zeros((1, 5, 41), dtype), np.full(1, 5), np.zeros((1, words, 31), dtype), np.full(1, words, np.int64)
    )
    with pytest.raises(InputError, match=f"the engine's scorer does not take .* × {words} words"):
        list(engine.backend.score_tiles([tile]))
    assert len(engine.search("w1", engine.encode_images(world[0]), 3)) == 3


def test_closing_frees_the_memory(gpu, bundle, world):
    def use():
        retriever = Retriever.open(bundle, "tensorrt")
        gallery = retriever.encode_images(world[0])
        for _ in range(4):
            retriever.search("w1 w2", gallery, 3)
        retriever.backend.close()

    use()
    gc.collect()
    before = gpu.free_bytes()
    for _ in range(5):
        use()
        gc.collect()
    assert before - gpu.free_bytes() < 16 << 20


def test_onnxruntime_on_the_gpu_gives_the_same_scores(tiny_folder, world):
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    features, lengths, captions = world
    cuda = Retriever.open(tiny_folder / "model.caan", "onnxruntime", device="cuda")
    cpu = Retriever.open(tiny_folder / "model.caan", "onnxruntime", device="cpu")
    gallery = cpu.encode_images(features, lengths)
    expected = cpu.score_matrix(gallery, captions)
    for _ in range(4):
        assert np.abs(cuda.score_matrix(gallery, captions) - expected).max() <= 1e-4
