"""Half-precision states: galleries of FP16 and INT8 graphs, in memory and on disk; immutable states."""

import json

import numpy as np
import onnx
import pytest

from caan.bundle import graph_file, write_manifest
from caan.errors import BundleError, DataError
from caan.runtime import Retriever
from caan.runtime.index import Images, index_items
from tests.conftest import add_half_precision


@pytest.fixture
def half(tiny_bundle) -> Retriever:
    """The tiny bundle's FP16 graphs."""
    add_half_precision(tiny_bundle)
    return Retriever.open(tiny_bundle, precision="fp16")


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((6, 5, 12)).astype(np.float32)


def test_half_precision_graphs_give_half_size_galleries(half, tiny_bundle, features):
    whole = Retriever.open(tiny_bundle)
    assert (half.backend.state_dtype, whole.backend.state_dtype) == (np.float16, np.float32)
    for a, b in (
        (half.encode_images(features), whole.encode_images(features)),
        (half.encode_captions(["w1 w2", "w3"]), whole.encode_captions(["w1 w2", "w3"])),
    ):
        assert (a.states.dtype, b.states.dtype) == (np.float16, np.float32)
        assert 2 * a.states.nbytes == b.states.nbytes
        assert np.abs(a.states.astype(np.float32) - b.states).max() < 2e-3


def test_scores_are_float32_and_near_full_precision(half, tiny_bundle, features):
    captions, whole = ["w1 w2 w3", "w4", "w5 w6 w7 w8"], Retriever.open(tiny_bundle)
    scores = half.score_matrix(half.encode_images(features, [1, 2, 3, 4, 5, 5]), captions)
    expected = whole.score_matrix(whole.encode_images(features, [1, 2, 3, 4, 5, 5]), captions)
    assert scores.dtype == np.float32
    assert 0 < np.abs(scores - expected).max() < 5e-3


def test_a_half_size_gallery_on_disk_is_the_one_in_memory(half, tiny_bundle, features, tmp_path):
    in_memory = half.encode_images(features, [4, 1, 3, 2, 4, 5])
    opened = index_items(half, tiny_bundle, Images(half, features, [4, 1, 3, 2, 4, 5]), tmp_path / "gallery")
    assert opened.states.dtype == np.float16 and (opened.states == in_memory.states).all()
    assert (half.score_matrix(opened, ["w1"]) == half.score_matrix(in_memory, ["w1"])).all()


def test_another_precisions_gallery_is_refused(half, tiny_bundle, features):
    whole = Retriever.open(tiny_bundle)
    with pytest.raises(BundleError, match="made with another model or precision"):
        half.search("w1", whole.encode_images(features), 1)


def test_a_gallerys_states_can_not_be_changed(half, features, tmp_path):
    """A backend may cache a copy on its device."""
    for gallery in (half.encode_images(features), half.encode_images(features, folder=tmp_path)):
        with pytest.raises(ValueError, match="read-only"):
            gallery.states[0] = 0
        with pytest.raises(ValueError, match="read-only"):
            gallery.gather(np.arange(3))[0][0] = 0


def test_graphs_of_one_precision_whose_states_differ_are_refused(half, tiny_bundle):
    onnx.save(onnx.load(tiny_bundle / graph_file("scorer", "fp32")), tiny_bundle / graph_file("scorer", "fp16"))
    write_manifest(tiny_bundle, json.loads((tiny_bundle / "manifest.json").read_text()))
    with pytest.raises(BundleError, match=r"its fp16 graphs do not fit each other, states are tensor\(float\) and"):
        Retriever.open(tiny_bundle, "onnxruntime", "fp16")


def test_features_too_large_for_half_precision_are_named(half, features):
    features[3] = 1e30
    with pytest.raises(DataError, match="image 3 can't be encoded"):
        half.encode_images(features)
