"""States with NaN or infinity, from a damaged file or an overflow: skipped and named, never ranked."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import CaanWarning, DataError
from caan.runtime import Gallery, Retriever
from caan.runtime.serving.batching import BatchingRetriever

BAD = [np.nan, np.inf, -np.inf]
IMAGES, CAPTIONS = 7, ["w1 w2", "w3", "w4 w5 w6"]


@pytest.fixture(scope="module")
def good(retriever):
    features = np.random.default_rng(5).standard_normal((IMAGES, 5, 12)).astype(np.float32)
    return retriever.encode_images(features, ids=[f"{number}.jpg" for number in range(IMAGES)])


def spoilt(gallery: Gallery, items, value=np.nan, column=slice(None)) -> Gallery:
    states = gallery.states.copy()
    for item in items:
        states[gallery.offsets[item], column] = value
    return replace(gallery, states=states)


@pytest.mark.parametrize("value", BAD)
def test_an_item_without_a_score_is_left_out_and_named(retriever, good, value):
    hits = retriever.search("w1 w2", good, 7)
    with pytest.warns(CaanWarning, match=r"instead of a score: image 3 \(3\.jpg\); left out of the hits") as said:
        results = retriever.search("w1 w2", spoilt(good, [3], value))
    assert [warning.filename for warning in said] == [__file__]
    assert [hit.index for hit in results] == [hit.index for hit in hits if hit.index != 3]


def test_one_nan_in_any_column_is_enough(retriever, good):
    for column in (0, 9, 10, 19, 20, 30, 40):
        with pytest.warns(CaanWarning, match="image 2"):
            assert {hit.index for hit in retriever.search("w3", spoilt(good, [2], column=column))} == {0, 1, 3, 4, 5, 6}


def test_many_items_are_counted(retriever, good):
    with pytest.warns(CaanWarning, match=r"4 images \(image 0 \(0\.jpg\), image 2 \(2\.jpg\), image 3 \(3\.jpg\), …\)"):
        results = retriever.search_many(CAPTIONS, spoilt(good, [0, 2, 3, 6]), 5)
    assert [sorted(hit.index for hit in hits) for hits in results] == [[1, 4, 5]] * 3


def test_a_query_without_any_score_is_an_error_by_its_number(retriever, good):
    texts = spoilt(retriever.encode_captions(CAPTIONS), [1])
    with pytest.raises(DataError, match="caption 1 can't be searched with"):
        retriever.search_many(texts, good)
    with pytest.raises(DataError, match=r"image 4 \(4\.jpg\) can't be searched with"):
        retriever.search_many(spoilt(good, [4]), retriever.encode_captions(CAPTIONS))


def test_a_gallery_without_any_score_is_an_error(retriever, good):
    with pytest.raises(DataError, match="caption 0 can't be searched with"):
        retriever.search("w1", spoilt(good, range(IMAGES)))


def test_deleted_items_are_not_reported(retriever, good):
    gone = np.arange(IMAGES) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(retriever.search("w1", replace(spoilt(good, [3]), deleted=gone))) == IMAGES - 1
    with pytest.raises(DataError, match="caption 0"):
        retriever.search("w1", replace(spoilt(good, [0, 1, 2, 4, 5, 6]), deleted=gone))


def test_a_score_matrix_keeps_them_and_says_which(retriever, good):
    expected = retriever.score_matrix(good, CAPTIONS)
    texts = spoilt(retriever.encode_captions(CAPTIONS), [2])
    with pytest.warns(CaanWarning) as said:
        scores = retriever.score_matrix(spoilt(good, [3]), texts)
    message = "NaN or infinity instead of a score: image 3 (3.jpg) and caption 2; it stays in the matrix"
    assert [(str(warning.message).startswith(message), warning.filename) for warning in said] == [(True, __file__)]
    is_bad = np.zeros(expected.shape, bool)
    is_bad[3], is_bad[:, 2] = True, True
    assert (np.isnan(scores) == is_bad).all()
    assert (scores[~is_bad] == expected[~is_bad]).all()


@pytest.mark.slow
def test_an_extreme_attention_scale(tmp_path, vocabulary):
    """Either hits of real items, or an error that names the caption."""
    from caan.export.bundle_from_checkpoint import export_checkpoint
    from caan.model.caan import CAAN, CaanConfig
    from caan.model.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(tmp_path / "model.pt", CAAN(CaanConfig(12, 10, 6, 7, 24, 5, 3e38)), vocabulary)
    export_checkpoint(load_checkpoint(tmp_path / "model.pt"), tmp_path / "model.pt", tmp_path / "model.caan")
    features = np.random.default_rng(5).standard_normal((IMAGES, 5, 12)).astype(np.float32)
    for path, backend in (("model.caan", "onnxruntime"), ("model.caan", "auto"), ("model.pt", "torch")):
        opened = Retriever.open(tmp_path / path, backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                hits = opened.search("w1 w2", opened.encode_images(features))
            except DataError as error:
                assert "caption 0 can't be searched with" in str(error)
            else:
                assert all(hit.index < IMAGES and np.isfinite(hit.score) for hit in hits) and hits


def test_a_batch_leaves_them_out_too(retriever, good):
    with BatchingRetriever(retriever, max_delay_ms=0) as batching:
        with pytest.warns(CaanWarning, match="image 3"):
            results = batching.search("w1 w2", spoilt(good, [3]))
        assert sorted(hit.index for hit in results) == [0, 1, 2, 4, 5, 6]
        with pytest.raises(DataError, match="caption 0 can't be searched with"):
            batching.search("w1 w2", spoilt(good, range(IMAGES)))


@settings(max_examples=30)
@given(data=st.data())
def test_hits_are_the_items_with_a_score_in_order(retriever, good, data):
    bad = data.draw(st.sets(st.integers(0, IMAGES - 1), max_size=IMAGES - 1))
    k = data.draw(st.integers(1, IMAGES))
    value, column = data.draw(st.sampled_from(BAD)), data.draw(st.integers(0, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = retriever.search_many(CAPTIONS, spoilt(good, bad, value, column), k)
        scores = retriever.score_matrix(spoilt(good, bad, value, column), CAPTIONS)
    for hits, column_scores in zip(results, scores.T, strict=True):
        with_score = np.flatnonzero(np.isfinite(column_scores))
        best = with_score[np.lexsort((with_score, -column_scores[with_score]))]
        assert [hit.index for hit in hits] == best[:k].tolist()


def test_a_file_of_states_with_nan(run, tiny_folder, tiny_data, tmp_path, monkeypatch):
    """As in a gallery written by other software; the command names the image and prints no placeholder."""
    from caan.data.scan import open_features
    from caan.runtime import index

    retriever = Retriever.open(tiny_folder / "model.caan", "onnxruntime")
    source = index.Images(retriever, open_features(tiny_data / "test_ims.npy"))

    def place_nan(states, *rest):
        place(states, *rest)
        states[2 * 5] = np.nan  # of the third image's first region

    place = index.place
    monkeypatch.setattr(index, "place", place_nan)
    index.index_items(retriever, tiny_folder / "model.caan", source, tmp_path / "gallery")
    done = run("search", tmp_path / "gallery", "w1 w2", "--json")
    assert done.code == 0
    assert "image 2" in done.err and "Warning" in done.err
    assert sorted(hit["index"] for hit in json.loads(done.out)) == [0, 1, 3, 4, 5]
