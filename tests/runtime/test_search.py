"""Searches are exact: for any query and gallery, the hits are the sorted score matrix's."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import OutputError
from caan.runtime import Gallery, Retriever
from caan.runtime.index import Captions, Images, IndexOptions, index_items
from caan.runtime.scoring.top_k import TopK

WORDS = [f"w{number}" for number in range(20)]
REGION_DIM = 12


class Rounded:
    """A backend that rounds scores, so that many are equal and none depends on the tiles."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def score_tiles(self, tiles, layout=None):
        for scores in self._backend.score_tiles(tiles, layout):
            yield np.round(scores, 1) + np.float32(0)  # no negative zero


@pytest.fixture(scope="module", params=["onnxruntime", "native"])
def retriever(request, tiny_folder):
    if request.param == "native":
        pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
    return Retriever.open(tiny_folder / "model.caan", request.param)


@st.composite
def worlds(draw):
    """(images' features (R_i, F), captions, deleted images, deleted captions), of random sizes."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, captions = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    features = [generator.standard_normal((r, REGION_DIM)).astype(np.float32) for r in generator.integers(1, 9, images)]
    texts = [list(generator.choice(WORDS, n)) for n in generator.integers(1, 12, captions)]
    features += [features[i] for i in draw(st.lists(st.integers(0, images - 1), max_size=4))]
    texts += [texts[i] for i in draw(st.lists(st.integers(0, captions - 1), max_size=4))]
    return features, texts, draw(deletions(len(features))), draw(deletions(len(texts)))


@st.composite
def deletions(draw, items):
    """Which items are deleted, never all; None for none."""
    deletions = np.array(draw(st.lists(st.booleans(), min_size=items, max_size=items)))
    return None if deletions.all() or not deletions.any() else deletions


def galleries(retriever, world):
    features, texts, images_gone, texts_gone = world
    padded = np.zeros((len(features), max(map(len, features)), REGION_DIM), np.float32)
    for row, image in zip(padded, features, strict=True):
        row[: len(image)] = image
    images = retriever.encode_images(padded, [len(image) for image in features])
    captions = retriever.encode_captions(texts)
    return dataclasses.replace(images, deleted=images_gone), dataclasses.replace(captions, deleted=texts_gone)


def brute_force(scores, live, k):
    """(index, score) of each query's k best in scores (queries, items); ties by index."""
    return [[(i, row[i]) for i in live[np.lexsort((live, -row[live]))][:k]] for row in scores.astype(np.float64)]


def pairs(hits):
    return [[(hit.index, hit.score) for hit in row] for row in hits]


@given(worlds(), st.integers(0, 2**17), st.data())
def test_captions_find_images_as_brute_force_does(retriever, world, tile_bytes, data):
    exact = Retriever(Rounded(retriever.backend), tile_bytes)
    images, captions = galleries(retriever, world)
    k = data.draw(st.integers(1, len(images.live)))
    scores = exact.score_matrix(images, dataclasses.replace(captions, deleted=None)).T
    expected = brute_force(scores, images.live, k)
    assert pairs(exact.search_many(world[1], images, k)) == expected
    assert pairs([exact.search(world[1][0], images, k)]) == expected[:1]
    queries = [[] if captions.deleted is not None and captions.deleted[i] else row for i, row in enumerate(expected)]
    assert pairs(exact.search_many(captions, images, k)) == queries


@given(worlds(), st.integers(0, 2**17), st.data())
def test_images_find_captions_as_brute_force_does(retriever, world, tile_bytes, data):
    exact = Retriever(Rounded(retriever.backend), tile_bytes)
    images, captions = galleries(retriever, world)
    k = data.draw(st.integers(1, len(captions.live)))
    scores = exact.score_matrix(dataclasses.replace(images, deleted=None), captions)
    expected = brute_force(scores, captions.live, k)
    assert pairs(exact.search_many(world[0], captions, k)) == expected
    assert pairs([exact.search(world[0][0], captions, k)]) == expected[:1]
    queries = [[] if images.deleted is not None and images.deleted[i] else row for i, row in enumerate(expected)]
    assert pairs(exact.search_many(images, captions, k)) == queries


@settings(max_examples=30)
@given(worlds())
def test_deleted_items_score_minus_infinity(retriever, world):
    images, captions = galleries(retriever, world)
    scores = retriever.score_matrix(images, captions)
    alive = np.zeros(scores.shape, bool)
    alive[np.ix_(images.live, captions.live)] = True
    assert np.isneginf(scores[~alive]).all() and np.isfinite(scores[alive]).all()


@settings(max_examples=30)
@given(worlds())
def test_a_loaded_gallery_scores_the_same(retriever, world):
    for gallery, other in (galleries(retriever, world), galleries(retriever, world)[::-1]):
        loaded = retriever.load(gallery)
        assert (loaded.states == gallery.states).all() and (loaded.live == gallery.live).all()
        a, b = (gallery, loaded) if gallery.kind == "image" else (other, other)
        c, d = (other, other) if gallery.kind == "image" else (gallery, loaded)
        np.testing.assert_array_equal(retriever.score_matrix(a, c), retriever.score_matrix(b, d))


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float32"}, {"compact": True}, {"compact": True, "dtype": "float32"}]
)
def test_a_gallery_on_disk_scores_as_its_stored_states(retriever, tiny_folder, tmp_path, options):
    """float16 is widened and a compact gallery's columns are recomputed, with the same result as `load`."""
    generator = np.random.default_rng(0)
    features, lengths = generator.standard_normal((200, 5, 12)).astype(np.float32), generator.integers(1, 6, 200)
    source = Images(retriever, features, lengths)
    opened = index_items(
        retriever, tiny_folder / "model.caan", source, tmp_path / "gallery", None, IndexOptions(**options)
    )
    states = opened.states.astype(np.float32)
    if opened.compact:
        states = retriever.backend.expand_regions(states[:, None])[:, 0]
    by_hand = Gallery("image", opened.encoder, states, opened.offsets)
    captions = [list(generator.choice(WORDS, n)) for n in generator.integers(1, 9, 50)]
    expected = retriever.score_matrix(by_hand, captions)
    assert np.abs(retriever.score_matrix(opened, captions) - expected).max() <= 2e-6
    assert np.abs(retriever.score_matrix(retriever.load(opened), captions) - expected).max() <= 2e-6


def test_half_precision_captions_on_disk(retriever, tiny_folder, tmp_path):
    texts = [f"w{n % 20} w{n % 7}" for n in range(600)]
    opened = index_items(retriever, tiny_folder / "model.caan", Captions(retriever, texts), tmp_path / "captions")
    by_hand = Gallery("text", opened.encoder, opened.states.astype(np.float32), opened.offsets)
    images = retriever.encode_images(np.random.default_rng(0).standard_normal((9, 5, 12)).astype(np.float32))
    assert opened.states.dtype == np.float16
    assert np.abs(retriever.score_matrix(images, opened) - retriever.score_matrix(images, by_hand)).max() <= 2e-6


@pytest.fixture
def sample(retriever):
    features = np.random.default_rng(0).standard_normal((40, 5, 12)).astype(np.float32)
    return retriever.encode_images(features), [f"w{n % 20} w{n % 7}" for n in range(30)]


def test_a_score_matrix_on_disk_is_the_one_in_memory(retriever, sample, tmp_path):
    scores = retriever.score_matrix(*sample, out=tmp_path / "new" / "scores.npy")
    assert isinstance(scores, np.memmap) and not scores.flags.writeable
    np.testing.assert_array_equal(scores, retriever.score_matrix(*sample))
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "scores.npy"), scores)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["scores.npy"]


def test_a_score_matrix_that_fails_keeps_the_old_file(retriever, sample, tmp_path, monkeypatch):
    (tmp_path / "scores.npy").write_text("old")

    def fails(tiles, layout=None):
        yield from retriever.backend.score_tiles(islice(tiles, 1))
        raise KeyboardInterrupt

    failing = Rounded(retriever.backend)
    failing.score_tiles = fails
    with pytest.raises(KeyboardInterrupt):
        Retriever(failing, tile_bytes=1).score_matrix(*sample, out=tmp_path / "scores.npy")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"scores.npy": "old"}


def test_a_score_matrix_on_a_full_disk(retriever, sample, small_disk):
    many = [text for text in sample[1] for _ in range(20)]
    with pytest.raises(OutputError, match=r"is full, scores.npy was not written; free some space"):
        retriever.score_matrix(sample[0], many, out=small_disk / "scores.npy")
    assert list(small_disk.iterdir()) == []


@given(st.data(), st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_top_k_does_not_depend_on_blocks_or_their_order(data, queries, items, seed):
    generator = np.random.default_rng(seed)
    scores = generator.integers(-3, 4, (queries, items)).astype(np.float32)  # many ties
    k = data.draw(st.integers(1, items))
    rows = np.array_split(generator.permutation(queries), data.draw(st.integers(1, queries)))
    columns = np.array_split(generator.permutation(items), data.draw(st.integers(1, items)))
    pieces = [(r, c) for r in rows for c in columns]
    best = TopK(queries, k)
    for number in generator.permutation(len(pieces)):
        r, c = pieces[number]
        best.add(r, c, scores[np.ix_(r, c)])
    expected = np.lexsort((np.broadcast_to(np.arange(items), scores.shape), -scores), axis=1)[:, :k]
    assert (best.items == expected).all()
    assert (best.scores == np.take_along_axis(scores, expected, axis=1)).all()
