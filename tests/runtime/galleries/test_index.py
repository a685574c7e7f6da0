"""Galleries on disk: what `caan index` writes, from which inputs and options, and what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import DataError, InputError
from caan.runtime import Gallery
from caan.runtime.index import precision_of
from tests.runtime.galleries.conftest import IMAGES, Counted, names, scores_of


def test_a_gallery_scores_as_its_features_do(write, retriever, features):
    expected = scores_of(retriever, retriever.encode_images(features))
    for options, tolerance in (({"dtype": "float32"}, 2e-6), ({}, 2e-3), ({"compact": True}, 5e-3)):
        opened = write(features, names(IMAGES), overwrite=True, **options)
        assert np.abs(scores_of(retriever, opened) - expected).max() <= tolerance
        assert opened.ids == names(IMAGES)


def test_compact_stores_only_v(write, features):
    whole, compact = write(features, target="whole"), write(features, target="compact", compact=True)
    assert (whole.states.shape[1], compact.states.shape[1]) == (41, 10)
    np.testing.assert_array_equal(whole.states[:, :10], compact.states)


def test_states_beyond_float16_say_which_dtype_holds_them(write, retriever, features):
    class Huge(Counted):
        def encode_images(self, features):
            return super().encode_images(features) * 1e6

    with pytest.raises(DataError, match=r"image 0 can't be encoded: its states are beyond float16.*--dtype float32"):
        write(features, backend=Huge(retriever.backend))
    assert len(write(features, backend=Huge(retriever.backend), dtype="float32")) == IMAGES


@settings(max_examples=40)
@given(st.lists(st.text(), min_size=3, max_size=3, unique=True))
def test_any_text_is_an_id(write, features, ids):
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        with pytest.raises(DataError, match="is not text"):
            write(features[:3], ids, overwrite=True)
    else:
        assert write(features[:3], ids, overwrite=True).ids == ids


def test_ids_with_line_breaks_and_quotes(write, features):
    ids = ["a\nb", "\u2028", "😀", '"', "\\", "", "\r", "\x00", "\x85", "e\u0301", "\u00e9"]
    assert write(features[: len(ids)], ids).ids == ids


@pytest.mark.parametrize("ids", [["a", "b", "\ud800"], ["a", "b", 3], ["a", "b", None], ["a", "b", b"c"]])
def test_ids_that_are_not_text(write, features, tmp_path, ids):
    with pytest.raises(DataError, match="id 2 is not text"):
        write(features[:3], ids)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_do_not_fit(write, features, tmp_path):
    with pytest.raises(DataError, match="the id 'a' occurs twice"):
        write(features[:3], ["a", "b", "a"])
    with pytest.raises(DataError, match="2 ids don't fit 3 items"):
        write(features[:3], ["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_of_captions_is_searched_with_images(run, retriever, tiny_folder, features, tmp_path):
    texts = [f"w{n % 20} w{n % 7} w{n % 3}" for n in range(700)]
    (tmp_path / "captions.txt").write_text("\n".join(texts))
    command = ["index", tiny_folder / "model.caan", tmp_path / "captions.txt", "-o", tmp_path / "gallery"]
    assert run(*command, "--dtype", "float32").out.endswith("gallery: 700 captions\n")
    opened = Gallery.open(tmp_path / "gallery")
    assert (opened.kind, len(opened)) == ("text", 700)
    images = retriever.encode_images(features[:3])
    expected = retriever.score_matrix(images, texts)
    assert np.abs(retriever.score_matrix(images, opened) - expected).max() <= 2e-6
    assert len(retriever.search(features[0], opened, 5)) == 5


def test_lengths_are_the_regions_of_each_image(run, retriever, tiny_folder, features, tmp_path):
    lengths = np.arange(IMAGES) % 5 + 1
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "lengths.npy", lengths)
    command = ["index", tiny_folder / "model.caan", tmp_path / "features.npy", "-o", tmp_path / "gallery"]
    assert run(*command, "--lengths", tmp_path / "lengths.npy", "--dtype", "float32").code == 0
    opened = Gallery.open(tmp_path / "gallery")
    assert (opened.lengths == lengths).all()
    expected = scores_of(retriever, retriever.encode_images(features, lengths))
    assert np.abs(scores_of(retriever, opened) - expected).max() <= 2e-6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.ones(6), "expected integers (images,)"),
        (np.ones((6, 1), int), "expected integers (images,)"),
        (np.ones(5, int), "lengths must be 6 integers"),
        (np.zeros(6, int), "lengths must be 1 to 5"),
        (np.full(6, 6), "lengths must be 1 to 5"),
    ],
)
def test_lengths_that_do_not_fit(refused, tiny_folder, tiny_data, tmp_path, content, says):
    np.save(tmp_path / "lengths.npy", content)
    command = ["index", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "-o", "gallery"]
    refused(*command, "--lengths", "lengths.npy", says=[says])


def test_conflicting_options(refused, tiny_folder, tiny_data, tmp_path):
    (tmp_path / "captions.txt").write_text("w1\n")
    bundle, images = tiny_folder / "model.caan", tiny_data / "test_ims.npy"
    refused("index", bundle, "captions.txt", "-o", "new", "--compact", says=["--compact is for galleries of images"])
    refused("index", bundle, "captions.txt", "-o", "new", "--lengths", images, says=["--lengths is for the regions"])
    refused("index", bundle, images, "-o", "new", "--dtype", "int4", says=["unknown dtype 'int4'", "bfloat16, int8"])
    refused("index", bundle, images, "-o", "new", "--append", "--overwrite", says=["give one of them"])
    refused("index", bundle, images, "-o", "new.partial", says=["new.partial ends in .partial", "-o"])


def test_float32_of_half_precision_graphs_is_refused(write, retriever, features, tmp_path):
    half = Counted(retriever.backend)
    half.state_dtype, half.precision = np.dtype(np.float16), "fp16"
    with pytest.raises(InputError, match="states of precision fp16 are float16; leave --dtype float32 out"):
        write(features, backend=half, dtype="float32")
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_s_precision_is_found_from_the_manifest_alone(write, features, tiny_bundle):
    gallery = write(features[:3])
    (tiny_bundle / "onnx" / "scorer.fp32.onnx").write_bytes(b"whoever opens the bundle will see")
    assert precision_of(gallery, tiny_bundle) == "fp32"
    assert precision_of(replace(gallery, encoder="another"), tiny_bundle) is None


@pytest.mark.parametrize("entry", [None, [], {}, {"sha256": 7}])
def test_a_manifest_whose_entries_are_damaged_names_no_precision(write, features, tiny_bundle, entry):
    gallery = write(features[:3])
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["files"]["onnx/image_encoder.fp32.onnx"] = entry
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    assert precision_of(gallery, tiny_bundle) is None
    del manifest["files"]["onnx/image_encoder.fp32.onnx"]
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest))
    assert precision_of(gallery, tiny_bundle) is None
