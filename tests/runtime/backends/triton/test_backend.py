"""The backend `triton`, on a GPU or in Triton's interpreter, against ONNX Runtime on the same bundle."""

import json
import threading

import numpy as np
import pytest
import torch
import triton

from caan.bundle import SCORER_WEIGHTS, write_manifest
from caan.errors import BundleError, CaanError, InputError, MissingError
from caan.runtime import Retriever
from caan.runtime.backends.contract import Tile
from caan.runtime.backends.triton import launch
from tests.conftest import add_half_precision

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

WORDS = [f"w{number}" for number in range(20)]
TOLERANCE = {"fp32": 2e-6, "fp16": 1e-2, "bf16": 2e-2}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU lacks")


@pytest.fixture(scope="module")
def world():
    """(features (4, 5, 12), their lengths, captions)."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((4, 5, 12)).astype(np.float32)
    return features, generator.integers(1, 6, 4), [list(generator.choice(WORDS, 1 + 2 * n)) for n in range(5)]


@pytest.fixture(params=["fp32", "fp16", "bf16"])
def pair(request, tiny_bundle):
    """(Retriever on the kernel, Retriever of the same graphs in ONNX Runtime)."""
    if request.param == "fp16":
        add_half_precision(tiny_bundle)
    graphs = {"bf16": "fp32"}.get(request.param, request.param)
    return [Retriever.open(tiny_bundle, "triton", request.param), Retriever.open(tiny_bundle, "onnxruntime", graphs)]


def assert_near(pair, actual, expected):
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max() <= TOLERANCE[pair[0].backend.precision]


def test_scores_are_those_of_the_graphs(pair, world):
    kernel, graphs = pair
    features, lengths, captions = world
    gallery = kernel.encode_images(features, lengths)
    expected = graphs.score_matrix(gallery, captions)
    assert_near(pair, kernel.score_matrix(gallery, captions), expected)
    assert_near(pair, kernel.score_matrix(gallery, kernel.encode_captions(captions)), expected)
    for hit in kernel.search(captions[3], gallery, k=4):
        assert abs(hit.score - expected[hit.index, 3]) <= TOLERANCE[kernel.backend.precision]


def test_galleries_work_with_either_backend(pair, world):
    """States come from the same graphs, with the same hash."""
    kernel, graphs = pair
    gallery = graphs.encode_images(world[0], world[1])
    assert kernel.backend.model.encoders == graphs.backend.model.encoders
    assert_near(pair, kernel.score_matrix(gallery, world[2]), graphs.score_matrix(gallery, world[2]))


def test_tile_sizes_change_nothing(pair, world):
    kernel, _ = pair
    gallery = kernel.encode_images(world[0], world[1])
    expected = kernel.score_matrix(gallery, world[2])
    assert_near(pair, Retriever(kernel.backend, tile_bytes=1 << 16).score_matrix(gallery, world[2]), expected)


def test_scores_are_yielded_in_order_on_demand(pair):
    backend = pair[0].backend
    generator = np.random.default_rng(1)

    def tile(items):
        states = [generator.standard_normal((items, 3, width)).astype(backend.state_dtype) for width in (41, 31)]
        return Tile(states[0], np.full(items, 3), states[1], np.full(items, 2))

    tiles = [tile(items) for items in (1, 4, 2, 3)]
    alone = [next(iter(backend.score_tiles([one]))) for one in tiles]
    for actual, expected in zip(backend.score_tiles(iter(tiles)), alone, strict=True):
        assert actual.shape == expected.shape and actual.dtype == np.float32
        assert (actual == expected).all()


@pytest.mark.slow
def test_a_changed_gallery_is_not_confused_with_the_previous_one(pair, world):
    kernel, graphs = pair
    for seed in range(2):
        gallery = kernel.encode_images(np.random.default_rng(seed).standard_normal((4, 5, 12)).astype(np.float32))
        for _ in range(2):
            assert_near(pair, kernel.score_matrix(gallery, world[2]), graphs.score_matrix(gallery, world[2]))


@pytest.mark.slow
def test_repeated_captions_are_sent_once(pair, monkeypatch, world):
    """And those of another tile are not confused with them."""
    kernel, _ = pair
    images, texts = kernel.encode_images(world[0], world[1]), kernel.encode_captions(world[2])
    (states, lengths), (words, text_lengths) = (side.gather(np.arange(len(side))) for side in (images, texts))
    tiles = [
        Tile(states[:2], lengths[:2], words, text_lengths.copy()),
        Tile(states[2:], lengths[2:], words, text_lengths.copy()),
        Tile(states[:2], lengths[:2], words, text_lengths[::-1].copy()),
        Tile(states[:2], lengths[:2], words[::-1].copy(), text_lengths[::-1].copy()),
    ]
    alone = [next(kernel.backend.score_tiles([tile])) for tile in tiles]
    sent = []
    send = type(kernel.backend)._to_device
    monkeypatch.setattr(type(kernel.backend), "_to_device", lambda self, array: sent.append(array) or send(self, array))
    actual = list(kernel.backend.score_tiles(tiles))
    assert all((one == other).all() for one, other in zip(actual, alone, strict=True))
    assert sum(array is words for array in sent) == 2 and len(sent) == 14


def test_states_of_either_width_are_scored(pair, world):
    """A fused scorer takes a gallery's float16 without conversion."""
    kernel, graphs = pair
    images = kernel.encode_images(world[0], world[1])
    states, lengths = images.gather(np.arange(len(images)))
    words, text_lengths = kernel.encode_captions(world[2]).gather(np.arange(len(world[2])))
    halves, wide = states.astype(np.float16), graphs.backend.state_dtype
    (actual,) = kernel.backend.score_tiles([Tile(halves, lengths, words, text_lengths)])
    (expected,) = graphs.backend.score_tiles([Tile(halves.astype(wide), lengths, words, text_lengths)])
    assert_near(pair, actual, expected)


def test_explanations_are_those_of_the_graphs(pair, world):
    kernel, graphs = pair
    features, _, captions = world
    tile = Tile(
        kernel.backend.encode_images(features[:1]),
        np.array([5]),
        *(lambda gallery: gallery.gather(np.arange(1)))(kernel.encode_captions(captions[:1])),
    )
    actual, expected = kernel.backend.explain(tile), graphs.backend.explain(tile)
    assert all((actual[name] == expected[name]).all() for name in expected)


def test_an_item_too_large_for_the_kernel_is_scored_by_the_graph(pair, monkeypatch, world):
    kernel, graphs = pair
    monkeypatch.setattr(launch, "_MOST_CELLS", {2: 0, 4: 0})
    gallery = kernel.encode_images(world[0], world[1])
    assert (kernel.score_matrix(gallery, world[2]) == graphs.score_matrix(gallery, world[2])).all()


@pytest.mark.slow
def test_threads_share_one_backend(pair, world):
    kernel, _ = pair
    gallery = kernel.encode_images(world[0], world[1])
    expected, failures = kernel.score_matrix(gallery, world[2]), []

    def work():
        try:
            assert (kernel.score_matrix(gallery, world[2]) == expected).all()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_full_gpu_is_reported(pair, monkeypatch, world):
    kernel, _ = pair
    gallery = kernel.encode_images(world[0], world[1])

    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(launch, "score_states", full)
    with pytest.raises(CaanError, match=r"memory is full.*use backend 'onnxruntime'"):
        kernel.score_matrix(gallery, world[2])


def test_a_bundle_older_than_the_weights_file_names_the_export_command(tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    (tiny_bundle / SCORER_WEIGHTS).unlink()
    write_manifest(tiny_bundle, manifest)
    with pytest.raises(BundleError, match=r"exported before .* export the checkpoint again: caan-export"):
        Retriever.open(tiny_bundle, "triton")
    assert Retriever.open(tiny_bundle, "onnxruntime").backend.name == "onnxruntime"


def test_an_unsupported_precision_is_refused(tiny_folder):
    with pytest.raises(InputError, match="scores in fp32, fp16, bf16, not in int8"):
        Retriever.open(tiny_folder / "model.caan", "triton", "int8")


@pytest.fixture
def no_interpreter(monkeypatch):
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)


@NO_GPU
def test_without_a_gpu_it_says_what_it_needs(no_interpreter, tiny_folder):
    with pytest.raises(MissingError, match=r"needs an NVIDIA GPU and a PyTorch built for CUDA.*use backend"):
        Retriever.open(tiny_folder / "model.caan", "triton")


def test_an_old_gpu_is_refused(no_interpreter, monkeypatch, tiny_folder):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    with pytest.raises(MissingError, match=r"compute capability 8\.0 or newer, this one has 7\.0"):
        Retriever.open(tiny_folder / "model.caan", "triton")


def test_the_cpu_is_refused(no_interpreter, tiny_folder):
    with pytest.raises(InputError, match="runs on device 'cuda'; on 'cpu' use backend 'onnxruntime'"):
        Retriever.open(tiny_folder / "model.caan", "triton", device="cpu")


@pytest.mark.parametrize("package", ["triton", "torch"])
def test_without_a_package_it_says_how_to_install_it(monkeypatch, tiny_folder, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingError, match=rf"needs the package '{package}'; pip install '.*\[triton\]'"):
        Retriever.open(tiny_folder / "model.caan", "triton")


def test_auto_does_not_choose_it(tiny_folder):
    assert Retriever.open(tiny_folder / "model.caan").backend.name != "triton"
