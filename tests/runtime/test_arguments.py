"""Swapped or wrong arguments raise an InputError that names the right call."""

from pathlib import Path

import numpy as np
import pytest

from caan.errors import InputError
from caan.runtime import BatchingRetriever, Retriever


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture(scope="module")
def gallery(retriever):
    return retriever.encode_images(np.ones((3, 5, 12), np.float32))


@pytest.mark.parametrize("path", ["gallery", Path("gallery")])
def test_a_path_in_place_of_a_gallery(retriever, path):
    with BatchingRetriever(retriever) as batching:
        for call in (
            lambda: retriever.search("w1", path),
            lambda: retriever.search_many(["w1"], path),
            lambda: retriever.score_matrix(path, ["w1"]),
            lambda: retriever.load(path),
            lambda: retriever.tune(path),
            lambda: batching.search("w1", path),
            lambda: batching.submit("w1", path),
        ):
            with pytest.raises(InputError, match=r"the gallery is a path; open it: Gallery\.open\('gallery'\)"):
                call()


def test_query_and_gallery_swapped(retriever, gallery):
    with BatchingRetriever(retriever) as batching:
        for search in (retriever.search, batching.search):
            with pytest.raises(InputError, match=r"write search\(query, gallery\)"):
                search(gallery, "w1")
    with pytest.raises(InputError, match=r"write score_matrix\(gallery, captions\)"):
        retriever.score_matrix(["w1"], gallery)


@pytest.mark.parametrize("other", [None, 3, ["w1"], np.ones((5, 12), np.float32)])
def test_another_object_in_place_of_a_gallery(retriever, other):
    with pytest.raises(InputError, match=f"the gallery must be a Gallery, .* not {type(other).__name__}"):
        retriever.search("w1", other)


def test_several_captions_in_place_of_one(retriever, gallery):
    with BatchingRetriever(retriever) as batching:
        for call in (
            lambda: retriever.search(["a dog", "a cat"], gallery, 2),
            lambda: retriever.search(["w1 w2", "w3"], gallery, 2),
            lambda: batching.search(["w1 w2", "w3"], gallery, 2),
            lambda: retriever.search_many([["w1 w2", "w3"]], gallery, 2),
            lambda: retriever.encode_captions([["w1"], ["w1 w2", "w3"]]),
            lambda: retriever.explain(np.ones((5, 12), np.float32), ["w1 w2", "w3"]),
        ):
            with pytest.raises(InputError, match=r"'.* .*' is several words; several captions go to search_many"):
                call()


def test_one_caption_in_place_of_several(retriever, gallery):
    for call in (retriever.encode_captions, lambda text: retriever.score_matrix(gallery, text)):
        with pytest.raises(InputError, match=r"not one string; write \[caption\]"):
            call("w1 w2")
    with pytest.raises(InputError, match=r"not one string; write \[caption\], or use search"):
        retriever.search_many("w1 w2", gallery)


def test_a_path_in_place_of_an_opened_object(tiny_folder):
    path = str(tiny_folder / "model.caan")
    for value in (path, Path(path)):
        with pytest.raises(InputError, match=r"write Retriever\.open\('.*model\.caan'\)"):
            Retriever(value)
        with pytest.raises(InputError, match=r"write BatchingRetriever\(Retriever\.open\('.*model\.caan'\)\)"):
            BatchingRetriever(value)


def test_objects_of_the_wrong_type(retriever, gallery):
    with pytest.raises(InputError, match="takes an opened backend, not Gallery"):
        Retriever(gallery)
    with pytest.raises(InputError, match="takes a Retriever, not Gallery"):
        BatchingRetriever(gallery)
    with pytest.raises(InputError, match=r"Retriever\.open takes the path of a bundle, not Retriever"):
        Retriever.open(retriever)
