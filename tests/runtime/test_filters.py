"""Searches filtered by id, index and score equal brute force over the score matrix."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import Closed, DataError, InputError
from caan.runtime import BatchingRetriever, Hit, Retriever

WORDS = [f"w{number}" for number in range(20)]


class Rounded:
    """A backend that rounds scores, so that many are equal and none depends on the batch."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def score_tiles(self, tiles, layout=None):
        for scores in self._backend.score_tiles(tiles, layout):
            yield np.round(scores, 1) + np.float32(0)


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    opened = Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1)
    return Retriever(Rounded(opened.backend), tile_bytes=1 << 14)


@pytest.fixture(scope="module")
def sides(retriever):
    """Twelve images and twelve captions: as queries, and as galleries with ids and a deleted item each."""
    generator = np.random.default_rng(5)
    features = generator.standard_normal((12, 5, 12)).astype(np.float32)
    texts = [list(generator.choice(WORDS, n)) for n in generator.integers(1, 9, 12)]
    deleted = np.arange(12) == 4
    images = retriever.encode_images(features, ids=[f"{n}.jpg" for n in range(12)])
    captions = retriever.encode_captions(texts, ids=[f"c{n}" for n in range(12)])
    return {
        "image": (texts, dataclasses.replace(images, deleted=deleted)),
        "text": (list(features), dataclasses.replace(captions, deleted=deleted)),
    }


@pytest.fixture(scope="module")
def matrix(retriever, sides):
    """Scores (images, captions) of all, deleted ones too."""
    images, captions = (dataclasses.replace(sides[kind][1], deleted=None) for kind in ("image", "text"))
    return retriever.score_matrix(images, captions)


def brute_force(row, allowed, k, least):
    """A query's hits among allowed indices, by score, then index."""
    ranked = sorted((-row[i], i) for i in allowed if least is None or row[i] >= least)
    return [(i, float(-negative)) for negative, i in ranked[:k]]


indices = st.none() | st.lists(st.integers(0, 15), max_size=14)


@settings(max_examples=60)
@given(
    st.sampled_from(["image", "text"]), st.booleans(), indices, indices, st.integers(1, 11),
    st.none() | st.floats(-1, 1, width=32), st.sampled_from(["id", "index", "mixed"]), st.sampled_from([list, set]),
)  # fmt: skip
def test_a_filter_is_brute_force_on_the_matrix(
    retriever, sides, matrix, kind, named, ids, exclude, k, least, way, kept_in
):
    queries, gallery = sides[kind]
    if not named:
        gallery = dataclasses.replace(gallery, ids=None)
    scores = matrix.T if kind == "image" else matrix
    allowed = set(range(12)) - {4}
    allowed &= set(range(12) if ids is None else ids)
    allowed -= set(exclude or ())

    def write(numbers):
        if numbers is None:
            return None
        names = [f"{n}.jpg" if kind == "image" else f"c{n}" for n in range(16)] if named else list(map(str, range(16)))
        return kept_in(n if way == "index" or (way == "mixed" and n % 2) else names[n] for n in numbers)

    how = {"ids": write(ids), "exclude": write(exclude), "min_score": least}
    expected = [brute_force(row, allowed, k, least) for row in scores]
    results = retriever.search_many(queries, gallery, k, **how)
    assert [[(hit.index, hit.score) for hit in hits] for hits in results] == expected
    assert [(hit.index, hit.score) for hit in retriever.search(queries[3], gallery, k, **how)] == expected[3]
    assert all(hit.id == gallery.id_of(hit.index) for hits in results for hit in hits)


def test_only_selected_items_are_scored(retriever, sides):
    scored = []

    class Counting(Rounded):
        def score_tiles(self, tiles, layout=None):
            for scores in super().score_tiles(tiles, layout):
                scored.append(scores.size)
                yield scores

    texts, gallery = sides["image"]
    hits = Retriever(Counting(retriever.backend), tile_bytes=1 << 14).search(texts[0], gallery, 9, ids=["3.jpg", 7])
    assert {hit.index for hit in hits} == {3, 7} and sum(scored) == 2


def test_a_filter_that_matches_nothing_returns_no_hits(retriever, sides):
    texts, gallery = sides["image"]
    for how in ({"ids": []}, {"ids": ["4.jpg"]}, {"ids": ["unknown", 99, -1]}, {"exclude": range(12)}):
        how = {name: list(values) for name, values in how.items()}
        assert retriever.search(texts[0], gallery, 3, **how) == []
        assert retriever.search_many(texts[:2], gallery, 3, **how) == [[], []]
        with BatchingRetriever(retriever) as batching:
            assert batching.search(texts[0], gallery, 3, **how) == []


def test_k_above_the_size_is_an_error_unless_clamped(retriever, sides):
    texts, gallery = sides["image"]
    with BatchingRetriever(retriever) as batching:
        for search in (retriever.search, batching.search):
            with pytest.raises(DataError, match="k is 12, the gallery has 11 items"):
                search(texts[0], gallery, 12)
            with pytest.raises(DataError, match="k is 0"):
                search(texts[0], gallery, 0, clamp=True)
            assert len(search(texts[0], gallery, 10**9, clamp=True)) == 11
            assert len(search(texts[0], gallery, 5, clamp=True)) == 5


def test_a_batched_search_filters_as_a_search_alone(retriever, sides):
    texts, gallery = sides["image"]
    view = gallery.select(ids=[f"{n}.jpg" for n in range(6)])
    filters = ({"ids": ["1.jpg", 2, 3]}, {"exclude": [0, "1.jpg"]}, {"min_score": 0.0}, {"ids": [1], "clamp": True})
    with BatchingRetriever(retriever, max_delay_ms=20) as batching:
        for how in filters:
            answers = [batching.submit(text, gallery, 4, **how) for text in texts]
            assert [answer.result(60) for answer in answers] == retriever.search_many(texts, gallery, 4, **how)
        answers = [batching.submit(text, view, 4) for text in texts]
        assert [answer.result(60) for answer in answers] == retriever.search_many(texts, gallery, 4, ids=list(range(6)))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"ids": "3.jpg"}, "ids must be a list or set of ids, not a str"),
        ({"exclude": 3}, "exclude must be a list or set of ids, not an int"),
        ({"ids": [3.5]}, r"ids must hold ids \(text\) or indices \(int\), not 3.5"),
        ({"ids": [True]}, "not True"),
        ({"min_score": "high"}, "min_score must be a number, not 'high'"),
        ({"min_score": float("nan")}, "min_score must be a number, not nan"),
    ],
)
def test_filters_of_another_type_are_refused(retriever, sides, how, says):
    texts, gallery = sides["image"]
    with BatchingRetriever(retriever) as batching:
        for search in (retriever.search, batching.search):
            with pytest.raises(InputError, match=says):
                search(texts[0], gallery, 3, **how)


def test_a_batched_search_refuses_a_misspelt_filter_and_a_closed_one_any_request(retriever, sides):
    texts, gallery = sides["image"]
    with BatchingRetriever(retriever) as batching, pytest.raises(TypeError, match="no argument 'min_scor'"):
        batching.search(texts[0], gallery, 3, min_scor=0.5)
    with pytest.raises(Closed):
        batching.search(texts[0], gallery, 3, ids=[])


def test_a_hit_has_the_item_s_id_beside_index_and_score(retriever, sides):
    texts, gallery = sides["image"]
    for hit in retriever.search(texts[0], gallery, 3):
        assert (hit.id, type(hit.index), type(hit.score)) == (f"{hit.index}.jpg", int, float)
    for hit in retriever.search(texts[0], dataclasses.replace(gallery, ids=None), 3):
        assert hit.id == str(hit.index)
    assert Hit(3, 0.5) == Hit(3, 0.5, "3.jpg") != Hit(4, 0.5, "3.jpg")
