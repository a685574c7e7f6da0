"""The invariances of docs/model.md, on ONNX Runtime and the compiled scorer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.runtime import Gallery, Retriever
from caan.runtime.index import Images, IndexOptions, bundle_of, index_items

WORDS = [f"w{number}" for number in range(20)]
TOLERANCE = 2e-6
REGION_DIM = 12


@pytest.fixture(scope="module", params=["onnxruntime", "native"])
def retriever(request, tiny_folder) -> Retriever:
    if request.param == "native":
        pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
    return Retriever.open(tiny_folder / "model.caan", request.param)


@st.composite
def worlds(draw):
    """(features (N, R, F), lengths (N,), captions) of random sizes."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, regions = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    features = generator.standard_normal((images, regions, REGION_DIM)).astype(np.float32)
    lengths = generator.integers(1, regions + 1, images)
    captions = [list(generator.choice(WORDS, n)) for n in draw(st.lists(st.integers(1, 12), min_size=1, max_size=6))]
    return features, lengths, captions


def score(retriever: Retriever, features, lengths, captions) -> np.ndarray:
    return retriever.score_matrix(retriever.encode_images(features, lengths), captions)


@given(worlds(), st.integers(1, 5))
def test_padding_regions_changes_nothing(retriever, world, padding):
    features, lengths, captions = world
    garbage = np.full((len(features), padding, REGION_DIM), 1e3, np.float32)
    padded = np.concatenate([features, garbage], axis=1)
    assert np.abs(score(retriever, padded, lengths, captions) - score(retriever, *world)).max() <= TOLERANCE


@given(worlds())
def test_a_pair_alone_scores_as_it_does_among_others(retriever, world):
    features, lengths, captions = world
    together = score(retriever, *world)
    for i, length in enumerate(lengths):
        for j, caption in enumerate(captions):
            alone = score(retriever, features[i : i + 1, :length], [length], [caption])[0, 0]
            assert abs(together[i, j] - alone) <= TOLERANCE


@given(worlds(), st.integers(0, 2**18))
def test_tile_size_changes_nothing(retriever, world, tile_bytes):
    other = Retriever(retriever.backend, tile_bytes)
    assert np.abs(score(other, *world) - score(retriever, *world)).max() <= TOLERANCE


@given(worlds(), st.randoms())
def test_the_order_of_images_and_captions_changes_nothing(retriever, world, random):
    features, lengths, captions = world
    images, texts = list(range(len(features))), list(range(len(captions)))
    random.shuffle(images)
    random.shuffle(texts)
    shuffled = score(retriever, features[images], lengths[images], [captions[j] for j in texts])
    assert np.abs(shuffled - score(retriever, *world)[np.ix_(images, texts)]).max() <= TOLERANCE


@given(worlds(), st.randoms())
def test_the_order_of_regions_changes_nothing(retriever, world, random):
    features, lengths, captions = world
    shuffled = features.copy()
    for image, length in enumerate(lengths):
        order = list(range(length))
        random.shuffle(order)
        shuffled[image, :length] = features[image, order]
    assert np.abs(score(retriever, shuffled, lengths, captions) - score(retriever, *world)).max() <= TOLERANCE


@settings(max_examples=20)
@given(worlds())
def test_encoded_captions_score_as_texts_do(retriever, world):
    features, lengths, captions = world
    gallery = retriever.encode_images(features, lengths)
    encoded = retriever.score_matrix(gallery, retriever.encode_captions(captions))
    assert np.abs(encoded - retriever.score_matrix(gallery, captions)).max() <= TOLERANCE


@settings(max_examples=20)
@given(worlds())
def test_scores_are_pytorch_scores(retriever, tiny_folder, world):
    reference = Retriever.open(tiny_folder / "model.pt", backend="torch")
    assert np.abs(score(retriever, *world) - score(reference, *world)).max() <= 1e-5


@given(worlds(), st.data())
def test_search_is_the_sorted_score_matrix(retriever, world, data):
    features, lengths, captions = world
    # repeat the images to get ties
    features, lengths = np.concatenate([features, features]), np.concatenate([lengths, lengths])
    gallery = retriever.encode_images(features, lengths)
    k = data.draw(st.integers(1, len(gallery)))
    hits = retriever.search(captions[0], gallery, k)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True) and len({hit.index for hit in hits}) == k
    expected = np.sort(retriever.score_matrix(gallery, captions[:1])[:, 0])[::-1][:k]
    assert np.abs(np.array(scores) - expected).max() <= TOLERANCE


def test_equal_scores_keep_the_order_of_the_gallery(retriever):
    features = np.random.default_rng(0).standard_normal((1, 4, REGION_DIM)).astype(np.float32)
    one = retriever.encode_images(features)
    nine = Gallery(one.kind, one.encoder, np.tile(one.states, (9, 1)), np.arange(0, 37, 4))
    # One pair per tile: in a larger one, the last bit depends on the position.
    hits = Retriever(retriever.backend, tile_bytes=1).search("w1 w2", nine, 9)
    assert len({hit.score for hit in hits}) == 1
    assert [hit.index for hit in hits] == list(range(9))


def test_an_image_finds_captions_in_a_gallery_of_captions(retriever):
    features = np.random.default_rng(1).standard_normal((3, 4, REGION_DIM)).astype(np.float32)
    captions = retriever.encode_captions(["w1 w2", "w3", "w4 w5 w6"])
    hits = retriever.search(features[0], captions, 3)
    column = retriever.score_matrix(retriever.encode_images(features[:1]), ["w1 w2", "w3", "w4 w5 w6"])[0]
    assert [hit.index for hit in hits] == list(np.argsort(-column, kind="stable"))


def test_a_gallery_on_disk_is_memory_mapped_and_scores_the_same(retriever, tiny_folder, tmp_path):
    features = np.random.default_rng(2).standard_normal((5, 4, REGION_DIM)).astype(np.float32)
    in_memory = retriever.encode_images(features, [4, 1, 3, 2, 4], ids=list("abcde"))
    source, whole = Images(retriever, features, [4, 1, 3, 2, 4]), IndexOptions("float32")
    opened = index_items(retriever, tiny_folder / "model.caan", source, tmp_path / "new", list("abcde"), whole)
    assert isinstance(opened.states, np.memmap)
    assert (opened.ids, len(opened)) == (list("abcde"), 5)
    assert bundle_of(opened, tmp_path / "new") == tiny_folder / "model.caan"
    assert (retriever.score_matrix(opened, ["w1"]) == retriever.score_matrix(in_memory, ["w1"])).all()
