"""ONNX Runtime on a device with its own memory: `run_bound`, run here with the CPU provider."""

import numpy as np
import onnxruntime
import pytest

from caan.runtime import Retriever
from caan.runtime.backends.device_cache import DeviceCache
from caan.runtime.backends.onnxruntime import encoders as onnx_encoders
from caan.runtime.backends.onnxruntime import sessions as onnx_sessions
from caan.runtime.backends.onnxruntime.sessions import open_session, run_bound
from caan.runtime.galleries.gallery import Gallery


@pytest.fixture
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime")


@pytest.fixture
def session(tiny_folder):
    return open_session(tiny_folder / "model.caan" / "onnx" / "scorer.fp32.onnx", "cpu", 1)


@pytest.fixture
def tile(retriever):
    """A scorer's inputs whose image states are a view of a gallery, and the gallery."""
    features = np.random.default_rng(0).standard_normal((6, 5, 12)).astype(np.float32)
    gallery = retriever.encode_images(features)
    texts, text_lengths = retriever.encode_captions(["w1 w2", "w3 w4 w5"]).gather(np.arange(2))
    states, lengths = gallery.gather(np.arange(4))
    inputs = {"image_states": states, "image_lengths": lengths, "text_states": texts, "text_lengths": text_lengths}
    return inputs, gallery


def test_bound_inputs_give_the_same_scores_and_stay(session, tile, monkeypatch):
    inputs, gallery = tile
    residents, sent = DeviceCache(lambda: 1 << 20), []
    real = onnxruntime.OrtValue.ortvalue_from_numpy

    def counted(array, device):
        sent.append(array.shape)
        return real(array, device)

    monkeypatch.setattr(onnxruntime.OrtValue, "ortvalue_from_numpy", counted)
    expected = session.run(None, inputs)[0]
    for _ in range(4):
        # Each search gathers new views of the same memory.
        again = inputs | {"image_states": gallery.gather(np.arange(4))[0]}
        assert (run_bound(session, again, "cpu", residents) == expected).all()
    assert sent == [inputs["image_states"].shape]


def test_padded_tiles_are_not_kept(session, retriever, tile):
    inputs, gallery = tile
    ragged = Gallery("image", gallery.encoder, gallery.states, np.array([0, 5, 9, 12, 30]))
    residents = DeviceCache(lambda: 1 << 20)
    for _ in range(3):
        states, lengths = ragged.gather(np.arange(3))
        one = inputs | {"image_states": states, "image_lengths": lengths}
        assert (run_bound(session, one, "cpu", residents) == session.run(None, one)[0]).all()
        assert residents.find(states) is None


def test_the_backend_binds_inputs_on_a_device_with_its_own_memory(retriever, tile, monkeypatch):
    """As on a GPU, with a CPU session instead."""
    _, gallery = tile
    expected = retriever.score_matrix(gallery, ["w1 w2", "w3"])
    bound = []

    def run(session, inputs, device, residents):
        bound.append(device)
        return run_bound(session, inputs, "cpu", residents)

    monkeypatch.setattr(onnx_encoders, "run_bound", run)
    monkeypatch.setattr(retriever.backend, "device", "cuda")
    for _ in range(3):
        assert (retriever.score_matrix(gallery, ["w1 w2", "w3"]) == expected).all()
    assert set(bound) == {"cuda"}


@pytest.fixture
def requested(monkeypatch):
    """The providers and options requested from an onnxruntime that claims to have CUDA."""
    calls = []

    class Session:
        def __init__(self, path, options, providers):
            calls.append(providers)

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    onnx_sessions._load_cuda.cache_clear()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    yield calls
    onnx_sessions._load_cuda.cache_clear()


def test_libraries_installed_by_pip_are_loaded_first_and_once(requested, monkeypatch, capsys, tmp_path):
    def preload():
        requested.append("preloaded")
        print("Failed to load libcudnn.so")

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    open_session(tmp_path / "x.onnx", "cuda", None)
    open_session(tmp_path / "x.onnx", "cuda", None)
    assert [call for call in requested if call == "preloaded"] == ["preloaded"] and requested[0] == "preloaded"
    printed = capsys.readouterr()
    assert printed.out == "" and "libcudnn" in printed.err


def test_an_onnxruntime_without_preload_is_used_anyway(requested, monkeypatch, tmp_path):
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    open_session(tmp_path / "x.onnx", "cuda", None)
    assert len(requested) == 1


def test_cuda_computes_in_float32_without_tf32(requested, tmp_path):
    """TF32, the provider's default, would not pass FP32's gate."""
    open_session(tmp_path / "x.onnx", "cuda", None)
    ((name, options),) = requested[-1]
    assert (name, options["use_tf32"]) == ("CUDAExecutionProvider", "0")
