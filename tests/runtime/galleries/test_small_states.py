"""Galleries of bfloat16 and int8 states: written, searched, changed and refused as others are."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from caan.errors import BundleError, DataError, InputError
from caan.runtime import Gallery, Retriever
from caan.runtime.backends.contract import KernelRows
from caan.runtime.galleries.rows import SMALL_DTYPES, decoded, encoded
from caan.runtime.index import Captions, IndexOptions, index_items
from tests.conftest import add_half_precision
from tests.runtime.galleries.conftest import BLOCK, IMAGES, Counted, names, scores_of

WIDTHS = {"image": (10, 10, 7, 7, 7), "text": (10, 7, 7, 7)}
BYTES = {"bfloat16": 2 * 41, "int8": 5 * 4 + 41}  # of a row


@pytest.fixture(params=SMALL_DTYPES)
def dtype(request):
    return request.param


@pytest.fixture
def numbers(retriever, features):
    """The encoder's own states (rows, S)."""
    return retriever.encode_images(features).states


def test_a_gallery_holds_the_rounded_states(write, retriever, features, numbers, dtype, tmp_path):
    gallery = write(features, names(IMAGES), dtype=dtype)
    assert np.array_equal(gallery.states, encoded(numbers, dtype, WIDTHS["image"]))
    assert (gallery.dtype, gallery.columns, gallery.compact) == (dtype, 41, False)
    assert repr(gallery) == f"<Gallery of 600 images, {dtype}>"
    assert (tmp_path / "gallery" / "states.bin").stat().st_size == IMAGES * 5 * BYTES[dtype]
    expected = scores_of(retriever, retriever.encode_images(features))
    assert 0 < np.abs(scores_of(retriever, gallery) - expected).max() <= 2e-2


@pytest.mark.parametrize("backend", ["native", "onnxruntime"])
@pytest.mark.parametrize("compact", [False, True])
def test_every_backend_scores_the_numbers_that_are_stored(
    write, tiny_folder, features, dtype, backend, compact, monkeypatch
):
    if backend == "native":
        pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
    opened = Retriever.open(tiny_folder / "model.caan", backend)
    gallery = write(features[:40], dtype=dtype, compact=compact)
    loaded = opened.load(gallery)
    assert loaded.states.dtype == np.float32 and not loaded.compact
    if not compact:
        assert np.array_equal(loaded.states, decoded(gallery.states, WIDTHS["image"]))
    expected = scores_of(opened, loaded)
    assert np.abs(scores_of(opened, gallery) - expected).max() <= 1e-6
    if backend == "native":  # an older build reads none of these
        monkeypatch.setattr(opened.backend, "tiles", KernelRows())
        assert np.abs(scores_of(opened, gallery) - expected).max() <= 1e-6


def test_a_loaded_gallery_is_saved_as_float32(write, retriever, features, tmp_path):
    saved = retriever.load(write(features[:5], dtype="int8")).save(tmp_path / "saved")
    assert saved.dtype == "float32" and saved.origin.description.accuracy is None


def test_compact_has_one_scale_a_row(write, features, numbers):
    gallery = write(features, dtype="int8", compact=True)
    assert np.array_equal(gallery.states, encoded(numbers[:, :10], "int8", (10,)))
    assert gallery.columns == 10


def test_captions_too(retriever, tiny_folder, features, tmp_path, dtype):
    texts = [f"w{n % 20} w{n % 7}" for n in range(30)]
    source = Captions(retriever, texts)
    gallery = index_items(
        retriever, tiny_folder / "model.caan", source, tmp_path / "texts", None, IndexOptions(dtype=dtype)
    )
    own = retriever.encode_captions(texts)
    assert np.array_equal(gallery.states, encoded(own.states, dtype, WIDTHS["text"]))
    images = retriever.encode_images(features[:3])
    expected = retriever.score_matrix(images, retriever.load(gallery))
    assert np.abs(retriever.score_matrix(images, gallery) - expected).max() <= 1e-6


def test_only_these_need_a_newer_caan(write, features, dtype, tmp_path):
    def version():
        return json.loads((tmp_path / "gallery" / "gallery.json").read_text())["version"]

    write(features[:3], dtype=dtype)
    assert version() == 4
    write(features[:3], dtype="float32", overwrite=True)
    assert version() == 3


def test_any_history_of_a_gallery_gives_the_same_bytes(write, retriever, features, dtype, tmp_path):
    """Appended to, deleted from, compacted, interrupted, saved and pickled."""
    write(features[:BLOCK], names(BLOCK), dtype=dtype)
    with pytest.raises(KeyboardInterrupt):
        failing = Counted(retriever.backend, BLOCK + 10)
        write(features[BLOCK:], names(IMAGES)[BLOCK:], append=True, backend=failing)
    counted = Counted(retriever.backend)
    gallery = write(features[BLOCK:], names(IMAGES)[BLOCK:], append=True, backend=counted)
    assert counted.images == IMAGES - 2 * BLOCK  # resumed after the first block
    whole = write(features, names(IMAGES), target="anew", dtype=dtype)
    assert np.array_equal(gallery.states, whole.states)
    saved = gallery.delete(["3.jpg", "599.jpg"]).save(tmp_path / "saved")
    assert np.array_equal(saved.states, whole.states) and len(saved.live) == IMAGES - 2
    compacted = saved.compact_storage()
    assert (compacted.dtype, len(compacted)) == (dtype, IMAGES - 2)
    assert np.array_equal(compacted.states[15:], np.delete(whole.states, range(15, 20), 0)[15 : (IMAGES - 2) * 5])
    for opened in (compacted, Gallery.open(tmp_path / "saved", storage="memory"), replace(compacted, origin=None)):
        assert np.array_equal(pickle.loads(pickle.dumps(opened)).states, compacted.states)
    in_memory = replace(compacted, origin=None, check=None)
    assert np.array_equal(in_memory.save(tmp_path / "again").states, compacted.states)


def test_states_beyond_float16_are_kept(write, retriever, features, dtype):
    class Huge(Counted):
        def encode_images(self, features):
            return super().encode_images(features) * np.float32(1e36)

    gallery = write(features[:3], backend=Huge(retriever.backend), dtype=dtype)
    assert np.isfinite(decoded(gallery.states, WIDTHS["image"])).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_not_finite_are_refused(write, features, tmp_path, dtype, value):
    spoilt = features[:3].copy()
    spoilt[1, 2, 3] = value
    with pytest.raises(DataError, match="image 1 can't be encoded: its features hold NaN, infinity"):
        write(spoilt, dtype=dtype)
    assert list(tmp_path.iterdir()) == []


def test_appended_items_must_match(write, features, dtype):
    write(features[:3], dtype=dtype)
    with pytest.raises(InputError, match=f"is {dtype}, and appended items must match"):
        write(features[3:5], append=True, dtype="float16")


def test_states_of_half_precision_graphs(tiny_bundle, features, dtype, tmp_path):
    add_half_precision(tiny_bundle)
    half = Retriever.open(tiny_bundle, "onnxruntime", precision="fp16")
    gallery = Gallery.create(tmp_path / "gallery", half, features[:5], dtype=dtype)
    expected = scores_of(half, half.encode_images(features[:5]))
    assert np.abs(scores_of(half, gallery) - expected).max() <= 2e-2


def test_damaged_states(write, retriever, features, dtype, tmp_path):
    write(features[:3], dtype=dtype)
    states = tmp_path / "gallery" / "states.bin"
    content = states.read_bytes()
    states.write_bytes(content[:-1])
    size = 15 * BYTES[dtype]
    with pytest.raises(BundleError, match=f"states.bin is truncated: {size - 1} bytes of {size}"):
        scores_of(retriever, Gallery.open(tmp_path / "gallery"))
    states.write_bytes(b"\xff" + content[1:])
    with pytest.raises(BundleError, match=r"states.bin was changed: the states of items 0 to 2"):
        scores_of(retriever, Gallery.open(tmp_path / "gallery"))
