"""Unusable queries, galleries, backends and devices: the messages of `caan search` and related commands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from msgspec.structs import replace

from caan.data.scan import open_features
from caan.errors import BundleError, CaanWarning, CheckpointError, DataError, InputError, MissingError, install
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import save_checkpoint
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.folder import read_description, write_description
from caan.runtime.index import Images, index_items

NO_CUDA = "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
needs_no_cuda = pytest.mark.skipif(not NO_CUDA, reason="this onnxruntime has CUDA")


@pytest.fixture
def gallery(tiny_folder, tiny_data, tmp_path) -> Path:
    """A gallery of the tiny data set's 6 images, which a test may damage."""
    retriever = Retriever.open(tiny_folder / "model.caan")
    source = Images(retriever, open_features(tiny_data / "test_ims.npy"))
    index_items(retriever, tiny_folder / "model.caan", source, tmp_path / "gallery")
    return tmp_path / "gallery"


@pytest.fixture
def evaluated(refused, tiny_folder, tiny_data):
    """evaluated(*options, says=…): `caan eval` of the tiny bundle with these options is refused."""

    def check(*options, **expected):
        return refused("eval", tiny_folder / "model.caan", "--data", tiny_data, *options, **expected)

    return check


def test_a_good_search_passes(run, gallery):
    """The undamaged input of the tests below is accepted."""
    done = run("search", gallery, "w1 w2", "-k", 6)
    assert (done.code, len(done.out.splitlines()), done.err) == (0, 6, "")


@pytest.mark.parametrize("caption", ["", "   ", "\t\n"])
def test_an_empty_caption(refused, gallery, caption):
    refused("search", gallery, caption, says=["the caption is empty", "write at least one word"])


@pytest.mark.parametrize("caption", ["zebra", "Zebra quagga !", "<nothing>", "猫"])
def test_a_caption_of_unknown_words_only(refused, gallery, caption):
    refused("search", gallery, caption, says=["no word of", caption, "try other words"])


def test_a_caption_of_unknown_tokens_only(tiny_folder, gallery):
    with pytest.raises(DataError, match="no word of 'zebra quagga' is in the model's vocabulary"):
        Retriever.open(tiny_folder / "model.caan").search(["zebra", "quagga"], Gallery.open(gallery), k=3)


def test_a_caption_with_one_known_word_is_searched_and_the_unknown_ones_are_named(run, gallery):
    done = run("search", gallery, "zebra w3 quagga w4.")
    assert done.code == 0 and done.out
    assert done.err == "Warning: the vocabulary lacks 'zebra', 'quagga', 'w4.', counted as unknown\n"


def test_a_caption_of_ten_thousand_words_is_cut_with_a_warning(run, gallery):
    done = run("search", gallery, "w1 " * 10_000)
    assert done.code == 0
    assert done.err == "Warning: caption 0 is longer than 126 words; further words were dropped\n"
    assert done.out == run("search", gallery, "w1 " * 126).out


def test_the_words_beyond_the_limit_are_dropped_not_scored(tiny_folder, gallery):
    retriever, opened = Retriever.open(tiny_folder / "model.caan"), Gallery.open(gallery)
    with pytest.warns(CaanWarning, match="longer than 126 words"):
        hits = retriever.search("w1 " * 126 + "w2 " * 9_874, opened, k=6)
    assert hits == retriever.search("w1 " * 126, opened, k=6)


def test_a_caption_that_is_not_utf8(refused, gallery):
    refused("search", gallery, "caf\udce9 w1", says=["is not UTF-8", "iconv"])


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are bytes on POSIX alone")
def test_the_installed_command_given_bytes_that_are_not_utf8(gallery):
    command = [Path(sys.executable).with_name("caan"), "search", gallery, b"caf\xe9 w1"]
    environment = {**os.environ, "PYTHONUTF8": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: the caption 'caf\\udce9 w1' is not UTF-8 text; convert it first")


def test_a_result_outside_the_terminals_encoding_is_still_printed(tiny_folder, tiny_data):
    command = [Path(sys.executable).with_name("caan"), "eval", tiny_folder / "model.caan", "--data", tiny_data]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, encoding="latin-1", env=environment, timeout=60)
    assert "rsum" in done.stdout and "Traceback" not in done.stderr
    assert done.returncode == 0


def test_k_larger_than_the_gallery(refused, gallery):
    refused("search", gallery, "w1", "-k", 7, says=["k is 7, the gallery has 6 items", "ask for 1 to 6"])


@pytest.mark.parametrize("k", ["0", "-1", "ten", "2.5"])
def test_k_that_is_not_a_count(refused, gallery, k):
    refused("search", gallery, "w1", "-k", k, says=["Invalid value for '-k'", k])


@pytest.mark.parametrize("k", [0, -1])
def test_k_that_is_not_a_count_in_python(tiny_folder, gallery, k):
    with pytest.raises(DataError, match=f"k is {k}, the gallery has 6 items; ask for 1 to 6"):
        Retriever.open(tiny_folder / "model.caan").search("w1", Gallery.open(gallery), k)


def test_an_unknown_backend(evaluated):
    evaluated("--backend", "tensorflow", says=["unknown backend 'tensorflow'", "onnxruntime", "torch", "auto"])


@pytest.mark.parametrize("precision", ["fp16", "double", "../fp32"])
def test_a_precision_the_bundle_lacks(evaluated, precision):
    evaluated("--precision", precision, says=[f"has no precision '{precision}'; it has: fp32"])


def test_a_precision_the_reference_lacks(refused, tiny_folder, tiny_data):
    command = ["eval", tiny_folder / "model.pt", "--data", tiny_data, "--backend", "torch", "--precision", "fp16"]
    refused(*command, says=["backend 'torch' is the fp32 reference, not fp16"])


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "auto"])
def test_an_unknown_device(evaluated, backend):
    evaluated("--device", "tpu", "--backend", backend, says=["unknown device 'tpu'", "cpu, cuda, auto"])


@needs_no_cuda
def test_cuda_where_onnxruntime_has_none(evaluated):
    says = ["device 'cuda' can't be used", "built without it", "caan doctor", "extra gpu", "device 'cpu'"]
    evaluated("--device", "cuda", code=4, says=says)


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch has CUDA")
def test_cuda_where_pytorch_has_none(refused, tiny_folder, tiny_data):
    command = ["eval", tiny_folder / "model.pt", "--data", tiny_data, "--backend", "torch", "--device", "cuda"]
    refused(*command, code=4, says=["PyTorch sees no CUDA device", "use device 'cpu'"])


@needs_no_cuda
def test_a_provider_silently_dropped_by_onnxruntime_is_named(evaluated, monkeypatch, recwarn):
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    evaluated("--device", "cuda", code=4, says=["ONNX Runtime dropped CUDAExecutionProvider", "caan doctor"])


@needs_no_cuda
def test_auto_takes_the_cpu_when_cuda_is_dropped(tiny_folder, monkeypatch, recwarn):
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    assert Retriever.open(tiny_folder / "model.caan", device="auto").backend.device == "cpu"


def test_onnxruntime_that_is_not_installed(evaluated, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    evaluated(code=4, says=["the backend 'onnxruntime' needs the package", install("cpu")])


def test_a_gallery_of_another_model(refused, gallery):
    write_description(gallery, replace(read_description(gallery), encoder="0" * 64))
    refused("search", gallery, "w1", says=["another model or precision", "encode again: caan index"])


def test_a_gallery_that_another_backend_made(tiny_folder, gallery, vocabulary, tmp_path):
    reference = Retriever.open(tiny_folder / "model.pt", backend="torch")
    with pytest.raises(BundleError, match="made with another model"):
        reference.search("w1", Gallery.open(gallery), k=3)
    torch.manual_seed(1)
    save_checkpoint(tmp_path / "other.pt", CAAN(CaanConfig(12, 10, 6, 7, 24)), vocabulary)
    other = Retriever.open(tmp_path / "other.pt", backend="torch")
    with pytest.raises(BundleError, match="made with another model"):
        other.score_matrix(reference.encode_images(np.ones((2, 5, 12))), other.encode_captions(["w1"]))


def test_a_gallery_of_the_other_kind(tiny_folder, gallery):
    retriever = Retriever.open(tiny_folder / "model.caan")
    captions = retriever.encode_captions(["w1", "w2"])
    with pytest.raises(DataError, match="this gallery holds texts; search it with images"):
        retriever.search("w1", captions, 1)
    with pytest.raises(DataError, match="this gallery holds images; search it with captions"):
        retriever.search(np.ones((5, 12)), Gallery.open(gallery), 1)


@pytest.mark.parametrize(
    ("bundle", "shown"), [("../moved.caan", "moved.caan"), ("/nowhere.caan", "nowhere"), (None, "")]
)
def test_a_gallery_whose_bundle_was_moved(refused, gallery, bundle, shown):
    write_description(gallery, replace(read_description(gallery), bundle=bundle))
    refused("search", gallery, "w1", says=["no longer at", shown, "--bundle"])


def test_swapped_arguments(refused, gallery, tiny_folder, tiny_bundle):
    checkpoint = tiny_folder / "model.pt"
    refused("search", tiny_bundle, "w1", says=["model.caan is not a gallery", "caan index BUNDLE FEATURES"])
    refused("search", checkpoint, "w1", says=["model.pt is not a gallery", "caan index BUNDLE FEATURES"])
    refused("search", "w1 w2", gallery, says=["w1 w2 is not a gallery"])
    refused("search", gallery, "w1", "--bundle", gallery, says=["gallery is not a bundle", "caan-export"])
    refused("search", gallery, "w1", "--bundle", checkpoint, says=["is a file, not a bundle", "caan-export"])
    refused("search", "w " * 3_000, gallery, says=["can't use 'w w w", "File name too long"])


def test_a_checkpoint_where_a_bundle_is_expected_and_the_other_way_round(refused, tiny_folder, tiny_data):
    checkpoint, bundle = tiny_folder / "model.pt", tiny_folder / "model.caan"
    says = ["model.pt is a file, not a bundle", f"caan-export {checkpoint}"]
    refused("eval", checkpoint, "--data", tiny_data, says=says)
    refused("bench", checkpoint, says=["model.pt", "caan-export"])
    refused("index", checkpoint, tiny_data / "test_ims.npy", "-o", "gallery", says=says)
    torch_command = ["eval", bundle, "--data", tiny_data, "--backend", "torch"]
    refused(*torch_command, says=["model.caan is a folder", "takes the checkpoint itself"])


def test_the_documented_types_in_python(tiny_folder):
    bundle, checkpoint = tiny_folder / "model.caan", tiny_folder / "model.pt"
    for error, path, options in [
        (InputError, bundle, {"backend": "tensorflow"}),
        (InputError, bundle, {"device": "tpu"}),
        (BundleError, bundle, {"precision": "fp16"}),
        (BundleError, checkpoint, {}),
        (BundleError, tiny_folder / "nowhere", {}),
        (CheckpointError, bundle, {"backend": "torch"}),
        *([(MissingError, bundle, {"device": "cuda"})] if NO_CUDA else []),
    ]:
        with pytest.raises(error):
            Retriever.open(path, **options)
