"""C++ and Python give the same scores, hits and warnings: demo world, Flickr8k, galleries of every kind."""

import importlib
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.data.scan import open_split
from caan.errors import CaanWarning
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.rows import DTYPES
from caan.runtime.index import Captions, Images, IndexOptions, delete_items, index_items
from tests.cpp.conftest import BACKENDS, need_native

TOLERANCE = 1e-5
WORDS = [f"w{number}" for number in range(20)]


@pytest.fixture(scope="module", params=BACKENDS)
def tiny(open_both, tiny_folder, request):
    return open_both(tiny_folder / "model.caan", backend=request.param)


@pytest.fixture(scope="module")
def on_disk(caan_c, library):
    """on_disk(folder): the gallery as Python and C++ open it."""
    return lambda folder: (Gallery.open(folder), caan_c.Gallery(library, str(folder)))


def assert_same_scores(actual, expected):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    finite = np.isfinite(expected)
    assert (np.isneginf(actual) == ~finite).all()
    assert np.abs(actual[finite] - expected[finite]).max() <= TOLERANCE


def assert_same_hits(actual, expected):
    """actual (queries, k) from C++, expected from Python: the same scores, and the same items up to ties."""
    for theirs, ours in zip(actual, expected, strict=True):
        scores = np.array([hit.score for hit in ours])
        assert np.abs(theirs["score"] - scores).max() <= TOLERANCE
        for rank, hit in enumerate(ours):
            if theirs["index"][rank] != hit.index:
                others = np.delete(scores, rank)
                is_tied = np.abs(others - scores[rank]).min(initial=np.inf) <= 2 * TOLERANCE
                # Items tied with the last one may have been left out.
                assert is_tied or rank == len(ours) - 1, (rank, ours, theirs)


def assert_same_answers(both, features, captions, k=10):
    ours, theirs = both
    gallery, actual = ours.encode_images(features), theirs.encode_images(features)
    expected = ours.score_matrix(gallery, captions)
    assert_same_scores(theirs.score_matrix(actual, captions), expected)
    assert_same_hits(theirs.search_many(captions, actual, k), ours.search_many(captions, gallery, k))
    texts, encoded = ours.encode_captions(captions), theirs.encode_captions(captions)
    assert_same_scores(theirs.score_matrix(actual, encoded), expected)
    assert_same_hits(theirs.search_many(actual, encoded, k), ours.search_many(gallery, texts, k))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_demo_world(open_both, demo_bundle, demo_run, backend):
    data = open_split(demo_run.data)
    assert_same_answers(open_both(demo_bundle, backend=backend), np.asarray(data.features), list(data.captions))


@pytest.mark.parametrize(
    ("backend", "precision"), [("onnxruntime", "fp16"), ("onnxruntime", "int8"), ("native", "fp16"), ("native", "bf16")]
)
def test_the_demo_world_in_other_precisions(open_both, demo_precisions, demo_run, backend, precision):
    if precision == "bf16" and not importlib.import_module("caan_native").has_native_bfloat16():
        pytest.skip("needs a processor that multiplies bfloat16")
    data = open_split(demo_run.data)
    assert_same_answers(open_both(demo_precisions, precision, backend), np.asarray(data.features), list(data.captions))


@pytest.mark.parametrize("backend", BACKENDS)
def test_real_photos_and_captions(open_both, flickr8k, flickr8k_bundle, backend):
    data = open_split(flickr8k)
    assert_same_answers(
        open_both(flickr8k_bundle, backend=backend), np.asarray(data.features[:40]), list(data.captions[:200])
    )


def test_a_file_of_features_is_what_numpy_reads(tiny, caan_c, library, tmp_path):
    ours, theirs = tiny
    for dtype in ("float16", "float32", "float64"):
        features = np.random.default_rng(1).standard_normal((7, 5, 12)).astype(dtype)
        np.save(tmp_path / "x.npy", features)
        lengths = [1, 2, 3, 4, 5, 5, 2]
        actual = theirs.encode_images(caan_c.Features(library, str(tmp_path / "x.npy")), lengths)
        expected = ours.score_matrix(ours.encode_images(features, lengths), ["w1 w2 w3", "w4"])
        assert_same_scores(theirs.score_matrix(actual, ["w1 w2 w3", "w4"]), expected)


@settings(max_examples=40)
@given(st.data())
def test_any_shapes_lengths_and_captions(tiny, data):
    ours, theirs = tiny
    images, regions = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 5))
    lengths = data.draw(st.lists(st.integers(1, regions), min_size=images, max_size=images))
    seed = data.draw(st.integers(0, 2**32))
    features = np.random.default_rng(seed).standard_normal((images, regions, 12)).astype(np.float32)
    words = st.lists(st.sampled_from([*WORDS, "zebra"]), min_size=1, max_size=30)
    captions = data.draw(st.lists(words.map(" ".join).filter(lambda text: "w" in text), min_size=1, max_size=20))
    k = data.draw(st.integers(1, images))
    gallery, actual = ours.encode_images(features, lengths), theirs.encode_images(features, lengths)
    assert_same_scores(theirs.score_matrix(actual, captions), ours.score_matrix(gallery, captions))
    assert_same_hits(theirs.search_many(captions, actual, k), ours.search_many(captions, gallery, k))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compact", [False, True])
def test_galleries_that_python_wrote(tiny, on_disk, tiny_folder, tmp_path, dtype, compact):
    ours, theirs = tiny
    generator = np.random.default_rng(2)
    features = generator.standard_normal((300, 5, 12)).astype(np.float32)
    images = Images(ours, features, generator.integers(1, 6, 300))
    ids = [f"bild {n} ä\n\"'" for n in range(300)]
    folder = tmp_path / "gallery"
    index_items(ours, tiny_folder / "model.caan", images, folder, ids, IndexOptions(dtype, compact))
    for deleted in ([], [ids[0], ids[150], ids[299]]):
        if deleted:
            delete_items(folder, deleted)
        gallery, actual = on_disk(folder)
        assert_same_scores(theirs.score_matrix(actual, ["w1 w2", "w3"]), ours.score_matrix(gallery, ["w1 w2", "w3"]))
        assert_same_hits(theirs.search_many(["w1 w2"], actual, 5), ours.search_many(["w1 w2"], gallery, 5))
    texts = [" ".join(WORDS[n % 7 : n % 7 + 1 + n % 9]) for n in range(60)]
    index_items(ours, tiny_folder / "model.caan", Captions(ours, texts), tmp_path / "texts", None, IndexOptions(dtype))
    queries, cpp_queries = on_disk(tmp_path / "texts")
    assert_same_hits(theirs.search_many(cpp_queries, actual, 5), ours.search_many(queries, gallery, 5))


def test_auto_makes_pythons_choice(caan_c, library, unavailable, demo_precisions):
    need_native(unavailable)
    for precision in ("fp32", "fp16", "int8"):
        ours = Retriever.open(demo_precisions, precision=precision, device="cpu").backend.name
        assert caan_c.Retriever(library, str(demo_precisions), precision=precision, device="cpu").backend == ours
        assert ours == ("onnxruntime" if precision == "int8" else "native")


def test_warnings_are_the_same(tiny):
    ours, theirs = tiny
    unknown = ["w1 Sea. sea.", "w2", "\x1b猫 w3 " + "y" * 90, "w1 " + " ".join(f"x{n}" for n in range(12))]
    for captions in (
        ["w1 " * 200],
        ["zebra"],
        ["w1", "zebra", "w2 " * 130, *["quagga"] * 4],
        ["w1 zebra"],
        ["w1 " * 126 + "zebra"],
        unknown,
        [*unknown, *["w1 x"] * 9],
    ):
        theirs.warnings.clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", CaanWarning)
            ours.encode_captions(captions)
        theirs.encode_captions(captions)
        assert theirs.warnings == [str(warning.message) for warning in caught] != []


def test_the_folder_may_go_once_a_bundle_is_open(open_both, tiny_folder, tmp_path):
    """Everything was read; only the expander of compact galleries is opened on first use."""
    folder = Path(shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan"))
    ours, theirs = open_both(folder)
    shutil.rmtree(folder)
    features = np.ones((2, 5, 12), np.float32)
    actual = theirs.score_matrix(theirs.encode_images(features), ["w1"])
    assert_same_scores(actual, ours.score_matrix(ours.encode_images(features), ["w1"]))
