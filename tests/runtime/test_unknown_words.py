"""Unknown words are named wherever captions are accepted: ten captions by name, the others as a count."""

import warnings

import numpy as np
import pytest

from caan.errors import CaanWarning, UnknownWordWarning
from caan.runtime import BatchingRetriever, Retriever
from caan.runtime.index import Captions, Images, index_items


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture(scope="module")
def gallery(retriever):
    return retriever.encode_images(np.random.default_rng(0).standard_normal((6, 5, 12)).astype(np.float32))


@pytest.fixture
def warnings_of():
    """warnings_of(call): the warnings of `call()`, each of which points at the caller's line."""

    def call(ask):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ask()
        assert all(warning.filename == __file__ for warning in caught)
        assert all(issubclass(warning.category, UnknownWordWarning) for warning in caught)
        return [str(warning.message) for warning in caught]

    return call


def test_every_entry_point_names_unknown_words(retriever, gallery, warnings_of):
    alone = ["the vocabulary lacks 'sea.', counted as unknown"]
    second = ["caption 1: the vocabulary lacks 'sea.', counted as unknown"]
    assert warnings_of(lambda: retriever.search("w1 Sea.", gallery, 2)) == alone
    assert warnings_of(lambda: retriever.search(["w1", "sea."], gallery, 2)) == alone
    assert warnings_of(lambda: retriever.search_many(["w1", "w2 sea."], gallery, 2)) == second
    assert warnings_of(lambda: retriever.encode_captions(["w1", "w2 sea."])) == second
    assert warnings_of(lambda: retriever.score_matrix(gallery, ["w1", "w2 sea."])) == second
    assert warnings_of(lambda: Captions(retriever, ["w1", "w2 sea."])) == second
    with BatchingRetriever(retriever) as batching:
        assert warnings_of(lambda: batching.search("w3 sea.", gallery, 2)) == alone
        assert warnings_of(lambda: batching.submit("w4 sea.", gallery, 2).result(60)) == alone


def test_known_words_cause_no_warning(retriever, gallery, warnings_of):
    assert warnings_of(lambda: retriever.search_many(["w1", "W2 w3", ["w4"], ["<unk>", "w1"]], gallery, 2)) == []
    assert warnings_of(lambda: retriever.explain(np.ones((5, 12), np.float32), "w1 sea.")) == []  # its answer says so


def test_the_eleventh_caption_is_only_counted(retriever, warnings_of):
    messages = warnings_of(lambda: retriever.encode_captions([f"w1 x{n}" for n in range(13)]))
    assert messages[0] == "caption 0: the vocabulary lacks 'x0', counted as unknown"
    assert len(messages) == 11 and messages[-1] == "… and 3 more captions with unknown words"
    assert len(warnings_of(lambda: retriever.encode_captions([f"w1 x{n}" for n in range(10)]))) == 10


def test_a_server_names_ten_captions_then_stays_silent(retriever, gallery, warnings_of):
    with BatchingRetriever(retriever) as batching:
        messages = warnings_of(lambda: [batching.search(f"w1 x{n}", gallery, 2) for n in range(30)])
    assert len(messages) == 11
    assert messages[-1] == "… and more captions with unknown words; further ones are not named"


def test_many_or_long_words_are_truncated(retriever, warnings_of):
    (message,) = warnings_of(lambda: retriever.encode_captions(["w1 " + " ".join(f"x{n}" for n in range(12))]))
    ten = ", ".join(f"'x{n}'" for n in range(10))
    assert message == f"the vocabulary lacks {ten}, …, counted as unknown"
    (message,) = warnings_of(lambda: retriever.encode_captions(["w1 zz zz " + "y" * 90]))
    assert message == f"the vocabulary lacks 'zz', '{'y' * 60}', counted as unknown"


def test_a_word_that_was_cut_off_is_not_named(retriever):
    with pytest.warns(CaanWarning) as caught:
        retriever.encode_captions(["w1 " * 126 + "zebra"])
    assert ["longer than" in str(warning.message) for warning in caught] == [True]


def test_results_are_the_same_batched_or_single(retriever, gallery):
    with pytest.warns(UnknownWordWarning), BatchingRetriever(retriever) as batching:
        batched, alone = (search("w1 sea. w2", gallery, 6) for search in (batching.search, retriever.search))
    assert [hit.index for hit in batched] == [hit.index for hit in alone]
    assert np.allclose([hit.score for hit in batched], [hit.score for hit in alone], atol=1e-5)


def test_files_name_their_lines(run, tiny_folder, tiny_data, tmp_path):
    captions = tiny_data / "test_caps.txt"
    captions.write_text("w1 sea.\n" + "w1 w2\n" * 29)
    expected = f"Warning: {captions}, line 1: the vocabulary lacks 'sea.', counted as unknown\n"
    done = run("eval", tiny_folder / "model.caan", "--data", tiny_data)
    assert done.code == 0 and done.err.endswith(f"one row per image, 5 captions each\n{expected}")
    captions.write_text("w1 w2\n" * 29 + "w1 land.\n")
    done = run("index", tiny_folder / "model.caan", captions, "-o", tmp_path / "texts")
    assert done.code == 0
    assert f"Warning: {captions}, line 30: the vocabulary lacks 'land.', counted as unknown\n" in done.err


def test_gates_against_pytorch_do_not_repeat_the_warning(run, tiny_folder, tiny_data, tmp_path, traced):
    (tiny_data / "test_caps.txt").write_text("w1 sea.\n" * 30)
    done = run("export", tiny_folder / "model.pt", "-o", tmp_path / "m.caan", "--data", tiny_data)
    assert done.code == 0 and "Warning" not in done.err


def test_indexing_images_gives_no_warning(retriever, tiny_folder, warnings_of, tmp_path):
    source = Images(retriever, np.ones((2, 5, 12), np.float32))
    assert warnings_of(lambda: index_items(retriever, tiny_folder / "model.caan", source, tmp_path / "g")) == []
