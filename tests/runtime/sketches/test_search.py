"""Searches by recall and candidates: what they return, and how they refuse."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import BundleError, CaanWarning, DataError, InputError
from caan.runtime import BatchingRetriever
from caan.runtime.galleries.description import Curve
from caan.runtime.hits import Hits
from tests.runtime.sketches.conftest import IMAGES

CAPTION = ["w1", "w5"]


def assert_alike(hits, others):
    """Equal but for the last digits: encoders round differently in batches."""
    assert [hit.index for hit in hits] == [hit.index for hit in others]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], abs=1e-6)


def pairs(hits):
    return [(hit.index, hit.score) for hit in hits]


@pytest.fixture(params=["image", "text"])
def searched(request, galleries, features):
    """(gallery, query): both directions."""
    return galleries[request.param], CAPTION if request.param == "image" else features[0]


@settings(max_examples=30)
@given(data=st.data())
def test_hits_are_the_best_of_the_exactly_scored_candidates(data, retriever, galleries, features):
    kind = data.draw(st.sampled_from(["image", "text"]))
    query = CAPTION if kind == "image" else features[data.draw(st.integers(0, 20))]
    gallery = galleries[kind]
    k = data.draw(st.integers(1, 20))
    n = data.draw(st.integers(k, len(gallery) + 5))
    excluded = set(data.draw(st.lists(st.integers(0, len(gallery) - 1), max_size=50)))
    exact = {hit.index: hit.score for hit in retriever.search(query, gallery, len(gallery))}
    hits = retriever.search(query, gallery, k, candidates=n, exclude=excluded)
    assert len(hits) == k
    assert all(hit.score == exact[hit.index] for hit in hits)
    assert not excluded & {hit.index for hit in hits}
    assert pairs(hits) == sorted(pairs(hits), key=lambda pair: (-pair[1], pair[0]))
    if n >= len(gallery) - len(excluded):
        assert pairs(hits) == pairs(retriever.search(query, gallery, k, exclude=excluded))


def test_recall_1_is_exact(retriever, searched):
    gallery, query = searched
    hits = retriever.search(query, gallery, 10, recall=1)
    assert pairs(hits) == pairs(retriever.search(query, gallery, 10))
    assert (hits.candidates, hits.recall) == (None, None)


def test_the_result_says_how_it_was_found(retriever, searched):
    gallery, query = searched
    hits = retriever.search(query, gallery, 10, recall=0.6)
    curve = gallery.sketches.curve
    row = curve.k.index(10)
    column = next(n for n, value in enumerate(curve.recall[row]) if value >= 0.6)
    assert hits.candidates == max(10, curve.candidates[column])
    assert hits.recall == (curve.recall[row][column], curve.low[row][column], curve.high[row][column])
    assert hits == list(hits)  # it is a list


def test_promised_recall_is_met_by_other_queries(retriever, galleries, captions):
    gallery, recall, k = galleries["image"], 0.8, 10
    queries = captions[:120]
    found = retriever.search_many(queries, gallery, k, recall=recall)
    exact = retriever.search_many(queries, gallery, k)
    shares = [sum(hit.score >= best[-1].score for hit in hits) / k for hits, best in zip(found, exact, strict=True)]
    error = 2 * np.std(shares) / len(shares) ** 0.5
    assert np.mean(shares) >= found[0].recall.low - error


def test_many_are_searched_as_one_by_one(retriever, galleries, captions, features):
    together = retriever.search_many(captions[:7], galleries["image"], 5, candidates=40)
    alone = [retriever.search(caption, galleries["image"], 5, candidates=40) for caption in captions[:7]]
    for hits, others in zip(together, alone, strict=True):
        assert_alike(hits, others)
    queries = retriever.encode_images(features[:4])
    together = retriever.search_many(queries, galleries["text"], 5, candidates=40)
    alone = [retriever.search(image, galleries["text"], 5, candidates=40) for image in features[:4]]
    for hits, others in zip(together, alone, strict=True):
        assert_alike(hits, others)


def test_batches_give_the_same_hits(retriever, galleries, captions):
    gallery = galleries["image"]
    with BatchingRetriever(retriever) as batching:
        answers = [
            batching.submit(caption, gallery, k, candidates=n)
            for caption, k, n in zip(captions[:12], range(1, 13), [20, 60] * 6, strict=True)
        ]
        for answer, caption, k, n in zip(answers, captions[:12], range(1, 13), [20, 60] * 6, strict=True):
            hits = answer.result(30)
            assert isinstance(hits, Hits) and hits.candidates == n
            assert_alike(hits, retriever.search(caption, gallery, k, candidates=n))


def test_every_backend_finds_nearly_the_same(sketched_folder, retriever, galleries, features):
    from caan.runtime import Retriever

    other = Retriever.open(sketched_folder / "model.caan", "onnxruntime")
    rows = other.sketch(other.encode_images(features), measure=False).sketches.read()
    difference = np.abs(rows.astype(int) - galleries["image"].sketches.read())
    assert difference.max() <= 1  # roundings of float32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"recall": 0}, "recall is 0; ask for more than 0, at most 1"),
        ({"recall": 1.01}, "recall is 1.01;"),
        ({"recall": float("nan")}, "recall is nan;"),
        ({"recall": "0.9"}, "recall is '0.9';"),
        ({"recall": True}, "recall is True;"),
        ({"candidates": 9}, "candidates must be k or more"),
        ({"candidates": 20.0}, "candidates must be k or more"),
        ({"recall": 0.9, "candidates": 50}, "give recall or candidates, not both"),
    ],
)
def test_impossible_requests_are_refused(retriever, searched, options, says):
    gallery, query = searched
    with pytest.raises(InputError, match=says):
        retriever.search(query, gallery, 10, **options)
    with BatchingRetriever(retriever) as batching, pytest.raises(InputError, match=says):
        batching.submit(query, gallery, 10, **options)


def test_galleries_without_sketches_are_refused(retriever, features):
    with pytest.raises(DataError, match=r"the gallery has no sketches.*caan sketch"):
        retriever.search(CAPTION, retriever.encode_images(features[:20]), 3, candidates=5)


def test_sketches_of_another_model_are_refused(retriever, galleries):
    gallery = galleries["image"]
    other = replace(gallery, sketches=replace(gallery.sketches, model="0" * 64))
    with pytest.raises(BundleError, match="another model or sketch; make them again: caan sketch"):
        retriever.search(CAPTION, other, 3, candidates=5)


def test_a_bundle_without_sketch_is_refused(tiny_folder, galleries):
    from caan.runtime import Retriever

    plain = Retriever.open(tiny_folder / "model.caan")
    with pytest.raises(BundleError, match=r"has no sketch; make one: caan sketch .* --data DIR"):
        plain.search(CAPTION, galleries["image"], 3, candidates=5)
    assert len(plain.search(CAPTION, galleries["image"], 3)) == 3


def with_curve(gallery, **changes):
    values = {
        "items": IMAGES, "sample": IMAGES, "queries": 50, "k": (1, 10), "candidates": (10, 50, 200),
        "recall": ((0.5, 0.9, 0.95), (0.3, 0.8, 0.93)), "low": ((0.4,) * 3, (0.2,) * 3), "high": ((1.0,) * 3,) * 2,
    }  # fmt: skip
    return replace(gallery, sketches=replace(gallery.sketches, curve=Curve(**values | changes)))


@pytest.mark.parametrize(
    ("recall", "k", "candidates"),
    [(0.5, 1, 10), (0.51, 1, 50), (0.5, 2, 50), (0.8, 10, 50), (0.81, 10, 200), (0.1, 10, 10)],
)
def test_the_curve_decides(retriever, galleries, recall, k, candidates):
    assert retriever.search(CAPTION, with_curve(galleries["image"]), k, recall=recall).candidates == candidates


def test_a_sample_is_scaled_to_the_gallery(retriever, galleries):
    gallery = with_curve(galleries["image"], sample=IMAGES // 3)
    assert retriever.search(CAPTION, gallery, 10, recall=0.8).candidates == 150


@pytest.mark.parametrize(
    ("curve", "k", "says"),
    [
        ({}, 11, "measured up to k = 10; searched exactly"),
        ({}, 10, "ends below 0.94 at k = 10; searched exactly"),
        (None, 10, "no measured recall; searched exactly; measure it: caan sketch"),
    ],
)
def test_a_recall_that_cant_be_promised_is_exact_with_a_warning(retriever, galleries, curve, k, says):
    gallery = galleries["image"]
    gallery = replace(gallery, sketches=replace(gallery.sketches, curve=None)) if curve is None else with_curve(gallery)
    with pytest.warns(CaanWarning, match=says):
        hits = retriever.search(CAPTION, gallery, k, recall=0.94)
    assert hits.candidates is None
    assert pairs(hits) == pairs(retriever.search(CAPTION, gallery, k))


def test_a_query_without_finite_states_fails_as_in_exact_search(retriever, galleries, features):
    broken = features[0].copy()
    broken[0, 0] = np.nan
    with pytest.raises(DataError) as exact:
        retriever.search(broken, galleries["text"], 3)
    with pytest.raises(DataError) as short:
        retriever.search(broken, galleries["text"], 3, candidates=20)
    assert str(short.value) == str(exact.value)
