"""Features of every magnitude: refused by name if a norm would overflow float32, otherwise all backends agree."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import DataError
from caan.runtime import Retriever
from caan.runtime.index import Images, index_items
from caan.runtime.serving.batching import BatchingRetriever
from tests.conftest import add_half_precision

HUGE = [1e19, 1e20, 1e30, -1e25, 3.4e38]
REFUSED = "hold NaN, infinity or huge values"


@pytest.fixture(scope="module")
def reference(tiny_folder):
    return Retriever.open(tiny_folder / "model.pt", "torch")


def features(images=40):
    return np.random.default_rng(2).standard_normal((images, 5, 12)).astype(np.float32)


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize("where", [np.s_[33], np.s_[33, 4], np.s_[33, 0, 7]])
def test_an_image_is_refused_by_name(retriever, value, where):
    array = features()
    array[where] = value
    ids = [f"{number}.jpg" for number in range(40)]
    with pytest.raises(DataError, match=rf"image 33 can't be encoded: its features {REFUSED}"):
        retriever.encode_images(array)
    with pytest.raises(DataError, match=rf"image 33 \(33\.jpg\) can't be encoded: its features {REFUSED}"):
        retriever.encode_images(array, ids=ids)


@pytest.mark.parametrize("value", [1e39, 1e300, -1e308])
def test_float64_beyond_float32(retriever, value):
    array = features().astype(np.float64)
    array[20, 3, 3] = value
    with pytest.raises(DataError, match="image 20 can't be encoded"):
        retriever.encode_images(array)


def test_every_function_that_takes_features_refuses_it(retriever, tiny_folder, tmp_path):
    array, texts = features(), retriever.encode_captions(["w1", "w2"])
    array[33, 1, 2] = 1e22
    with pytest.raises(DataError, match=f"image 33 can't be encoded: its features {REFUSED}"):
        index_items(retriever, tiny_folder / "model.caan", Images(retriever, array), tmp_path / "gallery")
    with pytest.raises(DataError, match=REFUSED):
        retriever.search(array[33], texts)
    with pytest.raises(DataError, match="image 1 can't be encoded"):
        retriever.search_many([array[3], array[33]], texts)
    with BatchingRetriever(retriever, max_delay_ms=0) as batching, pytest.raises(DataError, match=REFUSED):
        batching.search(array[33], texts)
    with pytest.raises(DataError, match=REFUSED):
        retriever.explain(array[33], "w1")


def test_rows_beyond_an_images_length_may_hold_anything(retriever):
    array = features(3)
    expected = retriever.encode_images(array, [5, 2, 5]).states
    array[1, 2:] = 1e30
    assert (retriever.encode_images(array, [5, 2, 5]).states == expected).all()


@pytest.mark.slow
def test_an_overflow_caused_by_a_large_weight_is_refused(tmp_path, vocabulary):
    """The features' norm is within bounds, but their projection's is not."""
    import torch

    from caan.export.bundle_from_checkpoint import export_checkpoint
    from caan.model.caan import CAAN, CaanConfig
    from caan.model.checkpoint import load_checkpoint, save_checkpoint

    torch.manual_seed(0)
    model = CAAN(CaanConfig(12, 10, 6, 7, 24, 5, 4.0))
    with torch.no_grad():
        model.image_encoder.fc.weight *= 1e3
    save_checkpoint(tmp_path / "model.pt", model, vocabulary)
    export_checkpoint(load_checkpoint(tmp_path / "model.pt"), tmp_path / "model.pt", tmp_path / "model.caan")
    array = features()
    array[33] *= 1e18
    for path, backend in (("model.caan", "onnxruntime"), ("model.pt", "torch")):
        with pytest.raises(DataError, match="image 33 can't be encoded"):
            Retriever.open(tmp_path / path, backend).encode_images(array)


@settings(max_examples=20)
@given(exponents=st.lists(st.floats(-30, 18), min_size=3, max_size=3), dtype=st.sampled_from(["f2", "f4", "f8"]))
def test_states_are_the_references_at_every_magnitude(retriever, reference, exponents, dtype):
    array = features(3).astype(np.float64) * 10.0 ** np.array(exponents)[:, None, None] / 10
    array = array.clip(-6e4, 6e4).astype(dtype) if dtype == "f2" else array.astype(dtype)
    states, expected = (r.encode_images(array).states for r in (retriever, reference))
    assert np.abs(states - expected).max() <= 2e-6


def test_float16_subnormals_and_the_smallest_of_float32(retriever, reference):
    smallest = [np.float16(6e-8), np.float32(1e-45), np.float32(1.2e-38), np.float64(5e-324), np.float32(0)]
    for value in smallest:
        array = np.full((2, 5, 12), value)
        states, expected = (r.encode_images(array).states for r in (retriever, reference))
        assert np.abs(states - expected).max() <= 2e-6


@pytest.mark.parametrize("magnitude", [1.0, 1e3, 6e4, 7e4, 1e6, 1e18, 1e20])
def test_half_precision_refuses_values_out_of_range(tiny_bundle, reference, magnitude):
    add_half_precision(tiny_bundle)
    half = Retriever.open(tiny_bundle, "onnxruntime", "fp16")
    array = features(3) * np.float32(magnitude)
    try:
        states = half.encode_images(array).states.astype(np.float32)
    except DataError as error:
        assert REFUSED in str(error) and magnitude > 1e3
    else:
        assert np.abs(states - reference.encode_images(array).states).max() <= 5e-3
