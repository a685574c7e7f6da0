"""The backend `tensorrt` on the stand-ins beside this file: scores equal ONNX Runtime's."""

import gc
import json
import random
import threading
import warnings

import numpy as np
import pytest

from caan.bundle import write_manifest
from caan.errors import BundleError, CaanWarning, DataError, InputError, MissingError
from caan.runtime import Retriever
from caan.runtime.backends.contract import Tile
from caan.runtime.galleries.gallery import Gallery

WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture
def world():
    """(features (11, 5, 12), their lengths, captions)."""
    generator = np.random.default_rng(0)
    features = generator.standard_normal((11, 5, 12)).astype(np.float32)
    return features, generator.integers(1, 6, 11), [list(generator.choice(WORDS, 1 + n % 9)) for n in range(20)]


@pytest.fixture
def opened(add_engine, tiny_bundle, on_a_gpu):
    """opened(precision, target): the tiny bundle with an engine, opened with it and with ONNX Runtime."""

    def both(precision="fp32", target="tensorrt", **options):
        add_engine(precision, target, **options)
        return [Retriever.open(tiny_bundle, name, precision) for name in ("tensorrt", "onnxruntime")]

    return both


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_scores_are_those_of_the_graphs(opened, gpu, world, precision, target):
    engine, graphs = opened(precision, target)
    features, lengths, captions = world
    for seed in range(3):
        gpu.chance, gpu.eagerness = random.Random(seed), seed / 2
        galleries = [retriever.encode_images(features, lengths) for retriever in (engine, graphs)]
        assert (galleries[0].states == galleries[1].states).all()
        expected = graphs.score_matrix(galleries[1], captions)
        assert np.abs(engine.score_matrix(galleries[0], captions) - expected).max() <= 1e-6
        # A gallery belongs to the graphs, not to a backend: one can index it, another search it.
        assert np.abs(engine.score_matrix(galleries[1], captions) - expected).max() <= 1e-6


def test_half_precision_states_take_half_the_memory(opened, world):
    engine, graphs = opened("fp16")
    assert engine.backend.state_dtype == graphs.backend.state_dtype == np.float16
    assert engine.encode_images(world[0]).states.dtype == np.float16


def test_a_gallery_is_sent_twice_then_cached(opened, gpu, world):
    engine, graphs = opened()
    gallery, sent = engine.encode_images(world[0]), []
    expected = graphs.search("w1 w2 w3", gallery, 5)
    for _ in range(4):
        before = gpu.uploaded
        hits = engine.search("w1 w2 w3", gallery, 5)
        sent.append(gpu.uploaded - before)
        assert [hit.index for hit in hits] == [hit.index for hit in expected]
    assert sent[0] == sent[1] == sent[2] + gallery.states.nbytes == sent[3] + gallery.states.nbytes


def test_a_gallery_of_captions_stays_on_the_device_too(opened, gpu, world):
    engine, _ = opened()
    captions, sent = engine.encode_captions([f"{word} w1" for word in WORDS]), []
    for _ in range(3):
        before = gpu.uploaded
        engine.search(world[0][0], captions, 3)
        sent.append(gpu.uploaded - before)
    assert sent[2] < sent[0] - captions.states.nbytes // 2


def test_a_deleted_gallerys_memory_is_freed_at_once(opened, gpu, world):
    engine, _ = opened()
    engine.search("w1", engine.encode_images(world[0]), 1)
    before = len(gpu.device)
    for _ in range(3):
        gallery = engine.encode_images(world[0])
        for _ in range(2):
            engine.search("w1", gallery, 1)
        assert len(gpu.device) == before + 2  # tiles of 9 images and of 2
        del gallery
        gc.collect()
        assert len(gpu.device) == before


def test_the_profiles_limit_item_lengths_like_the_model(opened, world):
    engine, _ = opened()
    assert engine.backend.model.limits == {"regions": 5, "words": 12}
    with pytest.raises(DataError, match="features have 6 regions per image, the model takes 1 to 5"):
        engine.encode_images(np.ones((2, 6, 12)))
    gallery = engine.encode_images(world[0])
    with pytest.warns(CaanWarning, match="longer than 10 words"):
        cut = engine.score_matrix(gallery, ["w1 " * 50])
    assert (cut == engine.score_matrix(gallery, ["w1 " * 10])).all()


def test_a_gallery_with_longer_items_than_the_engine_takes(opened):
    engine, graphs = opened()
    gallery = graphs.encode_images(np.ones((2, 6, 12), np.float32))
    with pytest.raises(DataError, match="this gallery has images of 6 regions, the backend takes up to 5"):
        engine.search("w1", gallery, 1)


def test_a_tile_beyond_every_profile_names_graph_shape_and_profiles(opened):
    engine, _ = opened()
    tile = Tile(
        np.ones((10, 5, 41), np.float32), np.full(10, 5), np.ones((1, 4, 31), np.float32), np.full(1, 4, np.int64)
    )
    with pytest.raises(InputError) as refusal:
        list(engine.backend.score_tiles([tile]))
    for text in ("scorer", "10 images × 5 regions × 1 captions × 4 words", "search: 1 to 9 images", "matrix: 1 to 3"):
        assert text in str(refusal.value)


def test_several_threads_search_at_once(opened, gpu, world):
    engine, graphs = opened()
    features, lengths, captions = world
    gallery = engine.encode_images(features, lengths)
    expected, failures = graphs.score_matrix(gallery, captions), []
    gpu.eagerness = 0.5

    def work():
        for _ in range(3):
            try:
                assert np.abs(engine.score_matrix(gallery, captions) - expected).max() <= 1e-6
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_closing_frees_its_memory(opened, gpu, world):
    engine, _ = opened()
    gallery = engine.encode_images(world[0])
    for _ in range(3):  # afterwards the gallery is on the device
        engine.search("w1", gallery, 1)
    engine.backend.close()
    gc.collect()
    assert gpu.device == {} and gpu.host == {}
    with pytest.raises(InputError, match="this backend is closed"):
        engine.search("w1", gallery, 1)


def test_dropping_it_frees_its_memory(opened, gpu, world):
    engine, _ = opened()
    engine.search("w1", engine.encode_images(world[0]), 1)
    del engine
    gc.collect()
    assert gpu.device == {} and gpu.host == {}


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_kernels_compiled_for_this_gpu_are_kept(opened, world, monkeypatch, tmp_path, how):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    engine, _ = opened(target="tensorrt-rtx")
    engine.search("w1", engine.encode_images(world[0]), 1)
    assert not (tmp_path / "cache" / "runtime").exists()
    if how == "closed":
        engine.backend.close()
    else:
        del engine
        gc.collect()
    assert len(list((tmp_path / "cache" / "runtime").iterdir())) == 3


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_states_of_the_other_type_are_converted(opened, world, backend):
    retriever = dict(zip(("tensorrt", "onnxruntime"), opened("fp16"), strict=True))[backend]
    gallery = retriever.encode_images(world[0])
    wide = Gallery(gallery.kind, gallery.encoder, gallery.states.astype(np.float32), gallery.offsets)
    assert retriever.search("w1", wide, 2) == retriever.search("w1", gallery, 2)


def test_the_cpu_is_not_for_engines(opened, tiny_bundle):
    opened()
    with pytest.raises(InputError, match="the backend 'tensorrt' runs on device 'cuda'"):
        Retriever.open(tiny_bundle, "tensorrt", device="cpu")


@pytest.mark.parametrize("key", ["region_dim", "embed_dim", "vocab_size"])
def test_a_manifest_whose_sizes_do_not_match_the_plans(add_engine, tiny_bundle, on_a_gpu, key):
    add_engine()
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["config"][key] -= 1
    write_manifest(tiny_bundle, manifest)
    with pytest.raises(BundleError, match="export the checkpoint again"):
        Retriever.open(tiny_bundle, "tensorrt")


def test_plans_that_do_not_fit_each_other(add_engine, tiny_bundle, on_a_gpu, trt, monkeypatch):
    add_engine()
    real = trt.Runtime.deserialize_cuda_engine

    def deserialize(self, content):
        engine = real(self, content)
        if engine.graph == "image_encoder":
            monkeypatch.setattr(engine, "get_tensor_dtype", lambda name: "tensor(float16)", raising=False)
        return engine

    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", deserialize)
    with pytest.raises(BundleError, match="do not fit each other in image_states; build them again"):
        Retriever.open(tiny_bundle, "tensorrt")


MISSED = {"passed": False, "summary": "rsum 300.00, Δ -96.80"}
ON_CPU = ("native", "onnxruntime")  # one of them, as is installed
CHECKED = {"checks": [{"what": "tensorrt against PyTorch FP32", "passed": True}]}


def test_auto_takes_an_engine_that_was_checked_on_a_gpu(add_engine, tiny_bundle, on_a_gpu):
    add_engine()
    assert Retriever.open(tiny_bundle).backend.name in ON_CPU
    add_engine(**CHECKED)
    assert Retriever.open(tiny_bundle).backend.name == "tensorrt"
    assert Retriever.open(tiny_bundle, device="cuda").backend.name == "tensorrt"
    assert Retriever.open(tiny_bundle, device="cpu").backend.name in ON_CPU


def test_auto_takes_the_checked_engine_not_a_preferred_one(add_engine, tiny_bundle, on_a_gpu):
    add_engine(target="tensorrt")
    add_engine(target="tensorrt-rtx", **CHECKED)
    assert Retriever.open(tiny_bundle, "tensorrt").backend.engine.target == "tensorrt"
    assert Retriever.open(tiny_bundle).backend.engine.target == "tensorrt-rtx"


def test_auto_says_why_a_checked_engine_is_skipped(add_engine, tiny_bundle, on_a_gpu):
    add_engine(version="1.6.0.1", **CHECKED)
    with pytest.warns(CaanWarning, match=r"built with TensorRT for RTX 1\.6\.0\.1.*until then another backend is used"):
        assert Retriever.open(tiny_bundle).backend.name in ON_CPU


def test_auto_is_silent_where_the_machine_lacks_something(add_engine, tiny_bundle, on_a_gpu, monkeypatch):
    def missing():
        raise MissingError("no NVIDIA GPU answers")

    add_engine(**CHECKED)
    monkeypatch.setattr("caan.runtime.backends.tensorrt.backend.Gpu.open", missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Retriever.open(tiny_bundle).backend.name in ON_CPU
    with pytest.raises(MissingError, match="no NVIDIA GPU answers"):
        Retriever.open(tiny_bundle, "tensorrt")


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime", "auto"])
@pytest.mark.parametrize("checks", [[MISSED, {"passed": True, "summary": "rsum 396.80"}], [MISSED], [], None])
def test_a_precision_that_missed_its_gate_is_opened_with_a_warning(add_engine, tiny_bundle, on_a_gpu, backend, checks):
    add_engine("fp16")
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["precisions"]["fp16"] = {"checks": checks, "status": "failed"}
    write_manifest(tiny_bundle, manifest)
    with pytest.warns(CaanWarning, match="fp16 of .*model.caan missed its accuracy gate") as found:
        Retriever.open(tiny_bundle, backend, "fp16")
    assert ("rsum 300.00, Δ -96.80" in str(found[0].message)) == bool(checks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Retriever.open(tiny_bundle, "onnxruntime", "fp32")
