"""Lists with elements of the wrong type: refused by position and type, in the same way by every function."""

from collections import OrderedDict, deque
from decimal import Decimal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from caan.errors import DataError, InputError
from caan.runtime import Retriever
from caan.runtime.index import Captions, Images, index_items
from caan.runtime.serving.batching import BatchingRetriever


class Text(str):
    """A subclass of str, as in some frameworks."""


class Column:
    """Like pandas.Series: one axis, and convertible to a list."""

    ndim, shape = 1, (2,)

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return list(self.values)


class Frame(Column):
    """Like pandas.DataFrame."""

    ndim, shape = 2, (2, 1)


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime")


@pytest.fixture(scope="module")
def images(retriever):
    return retriever.encode_images(np.random.default_rng(3).standard_normal((6, 5, 12)))


@pytest.fixture(scope="module")
def texts(retriever):
    return retriever.encode_captions(["w1 w2", "w3", "w4 w5 w6"])


@pytest.fixture(scope="module")
def takers(retriever, images):
    """All functions that take a list of captions."""
    return {
        "search_many": lambda captions: retriever.search_many(captions, images, 2),
        "score_matrix": lambda captions: retriever.score_matrix(images, captions),
        "encode_captions": retriever.encode_captions,
        "index": lambda captions: Captions(retriever, captions),
    }


TAKERS = ["search_many", "score_matrix", "encode_captions", "index"]
NOT_CAPTIONS = [
    (None, "None"),
    (float("nan"), r"a float \(nan\)"),
    (7, r"an int \(7\)"),
    (True, r"a bool \(True\)"),
    (b"a dog", r"bytes \(b'a dog'\)"),
    (Decimal("1"), "a Decimal"),
    ({"text": "w1"}, "a dict"),
    ({"w1"}, "a set"),
    ((word for word in ["w1"]), "a generator"),
    (np.float32(1), r"a float32 \(np.float32\(1.0\)\)"),
    (torch.zeros(2), r"a Tensor torch.float32 \(2,\)"),
    (object(), "an object"),
]


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(("value", "kind"), NOT_CAPTIONS)
def test_an_element_that_is_not_a_caption(takers, taker, value, kind):
    with pytest.raises(DataError, match=f"^caption 2 is {kind}, not text or a list of tokens"):
        takers[taker](["w1", ["w2", "w3"], value, "w4"])


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(("value", "kind"), [*NOT_CAPTIONS, (["w1"], "a list"), (["w1", ["w2"]], "a list")])
def test_a_token_that_is_not_text(takers, taker, value, kind):
    with pytest.raises(DataError, match=f"^caption 1: token 1 is {kind}, not text"):
        takers[taker](["w1", ["w2", value]])


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("captions", "kind"),
    [
        (None, "None"),
        (5, r"an int \(5\)"),
        (b"w1", r"bytes \(b'w1'\)"),
        ({"w1", "w2"}, "a set"),
        ({"w1": 1}, "a dict"),
        (OrderedDict(w1=1), "an OrderedDict"),
        ((word for word in ["w1"]), "a generator"),
        (map(str, [1]), "a map"),
        (Frame(["w1", "w2"]), r"a Frame \(2, 1\)"),
        (np.array([["w1", "w2"]]), r"an array <U2 \(1, 2\)"),
        (np.array("w1"), "an array"),
    ],
)
def test_a_value_that_is_not_a_list(takers, taker, captions, kind):
    with pytest.raises(InputError, match=f"must be a list of (captions|queries), not {kind}"):
        takers[taker](captions)


@pytest.mark.parametrize("taker", TAKERS)
def test_one_string_or_no_caption(takers, taker):
    with pytest.raises(InputError, match="not one string"):
        takers[taker]("w1 w2")
    for empty in ([], (), np.array([], str)):
        with pytest.raises(DataError, match="there is no caption"):
            takers[taker](empty)


@pytest.mark.parametrize(
    "captions",
    [
        ("w1 w2", "w3"),
        deque(["w1 w2", "w3"]),
        np.array(["w1 w2", "w3"]),
        np.array(["w1 w2", "w3"], object),
        Column(["w1 w2", "w3"]),
        [Text("w1 w2"), np.str_("w3")],
        [["w1", "w2"], ("w3",)],
        [np.array(["w1", "w2"]), [Text("w3")]],
        [np.array("w1 w2"), "w3"],
    ],
)
def test_equivalents_of_a_list_of_captions(retriever, images, captions):
    expected = retriever.score_matrix(images, ["w1 w2", "w3"])
    assert (retriever.score_matrix(images, captions) == expected).all()
    assert (retriever.score_matrix(images, retriever.encode_captions(captions)) == expected).all()
    hits = retriever.search_many(["w1 w2", "w3"], images)
    assert retriever.search_many(captions, images) == hits


@pytest.mark.parametrize(("value", "kind"), NOT_CAPTIONS)
def test_a_single_query_that_is_not_one(retriever, images, value, kind):
    with pytest.raises(DataError, match=kind):
        retriever.search(value, images)
    with BatchingRetriever(retriever, max_delay_ms=0) as batching, pytest.raises(DataError, match=kind):
        batching.search(value, images)


def test_a_single_query_of_an_equivalent_type(retriever, images):
    expected = retriever.search("w1 w2", images)
    with BatchingRetriever(retriever, max_delay_ms=0) as batching:
        for query in (Text("w1 w2"), np.str_("w1 w2"), ("w1", "w2"), np.array(["w1", "w2"]), np.array("w1 w2")):
            assert retriever.search(query, images) == expected
            assert batching.search(query, images) == expected


BAD_IMAGES = [
    ([[1.0] * 12] * 5, "is a list|is not text|not text"),
    (torch.zeros(5, 12), "a Tensor"),
    (np.zeros((5, 12), complex), "complex128"),
    (np.zeros((5, 12), int), "int64"),
    (np.zeros((5, 12), bool), "bool"),
    (np.zeros((5, 12), object), "not"),
    (np.zeros((5, 12), "U1"), "not"),
    (np.zeros(12), r"\(12,\)"),
    (np.zeros((1, 5, 12)), r"\(1, 5, 12\)"),
    (np.zeros((5, 12, 1, 1)), r"\(5, 12, 1, 1\)"),
    (np.zeros((0, 12)), "0"),
    (np.ma.masked_array(np.zeros((5, 12)), np.ones((5, 12), bool)), "masked"),
    (np.zeros((5, 12), [("x", float)]), "x"),
]


@pytest.mark.parametrize(("value", "says"), BAD_IMAGES)
def test_an_image_that_is_not_one(retriever, texts, value, says):
    with pytest.raises(InputError, match=says):
        retriever.search(value, texts)
    with pytest.raises(InputError, match="1.*" if isinstance(value, np.ndarray) else ""):
        retriever.search_many([np.zeros((5, 12)), value], texts)
    with BatchingRetriever(retriever, max_delay_ms=0) as batching, pytest.raises(InputError):
        batching.search(value, texts)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ([[[1.0] * 12] * 5], "a list"),
        (None, "None"),
        ("w1", "a str"),
        (Frame([1, 2]), "a Frame"),
        (torch.zeros(2, 5, 12), r"a Tensor torch.float32 \(2, 5, 12\)"),
        (np.zeros((2, 5, 12), complex), r"complex128 \(2, 5, 12\)"),
        (np.zeros((2, 5, 12), object), r"object \(2, 5, 12\)"),
        (np.zeros((2, 5, 12), "U3"), r"<U3 \(2, 5, 12\)"),
        (np.zeros((2, 5, 12), np.int32), r"int32 \(2, 5, 12\)"),
        (np.zeros((5, 12)), r"\(5, 12\)"),
        (np.ma.masked_array(np.zeros((2, 5, 12)), True), r"masked \(2, 5, 12\)"),
    ],
)
def test_invalid_features(retriever, features, says):
    for use in (retriever.encode_images, lambda given: Images(retriever, given)):
        with pytest.raises(DataError, match=rf"features must be a float array \(images, regions, 12\), not .*{says}"):
            use(features)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, ">f4"])
def test_features_of_every_float_type(retriever, dtype):
    features = np.random.default_rng(1).standard_normal((2, 5, 12)).astype(np.float16)
    expected = retriever.encode_images(features.astype(np.float32)).states
    assert (retriever.encode_images(features.astype(dtype)).states == expected).all()
    assert (retriever.encode_images(np.asfortranarray(features.astype(dtype))).states == expected).all()


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ("abc", "not one string"),
        ({"a", "b", "c"}, "not a set"),
        (5, "not an int"),
        (["a", "b"], "2 ids don't fit 3 items"),
        (["a", None, "c"], "id 1 is not text: None"),
        (["a", float("nan"), "c"], "id 1 is not text: nan"),
        (["a", "b", b"c"], "id 2 is not text: b'c'"),
        (np.array([1, 2, 3]), "id 0 is not text: 1"),
        (["a", "b", "\ud800"], "id 2 is not text"),
    ],
)
def test_invalid_ids(retriever, tiny_folder, tmp_path, ids, says):
    features = np.ones((3, 5, 12), np.float32)
    source, target = Images(retriever, features), tmp_path / "gallery"
    for use in (
        lambda: retriever.encode_images(features, ids=ids),
        lambda: retriever.encode_captions(["w1", "w2", "w3"], ids=ids),
        lambda: index_items(retriever, tiny_folder / "model.caan", source, target, ids),
    ):
        with pytest.raises(InputError, match=says):
            use()
    assert not target.exists()


def test_ids_of_an_equivalent_type(retriever):
    features = np.ones((2, 5, 12), np.float32)
    for ids in (("a", "b"), np.array(["a", "b"]), Column(["a", "b"]), [Text("a"), np.str_("b")]):
        found = retriever.encode_images(features, ids=ids).ids
        assert found == ["a", "b"] and {type(name) for name in found} == {str}


@pytest.mark.parametrize("k", [2.0, "2", True, np.bool_(True), None, np.float32(2), [2], float("nan"), b"2"])
def test_k_that_is_not_a_whole_number(retriever, images, k):
    if k is None:
        assert len(retriever.search("w1", images, k)) == 6
        return
    with BatchingRetriever(retriever, max_delay_ms=0) as batching:
        for use in (retriever.search, lambda q, g, k: retriever.search_many([q], g, k), batching.search):
            with pytest.raises(InputError, match="k must be a whole number"):
                use("w1", images, k)


@pytest.mark.parametrize("k", [0, -1, 7, 2**63, 2**70, -(2**70), np.int8(-1), np.uint64(2**64 - 1)])
def test_k_beyond_the_gallery(retriever, images, k):
    with BatchingRetriever(retriever, max_delay_ms=0) as batching:
        for use in (retriever.search, lambda q, g, k: retriever.search_many([q], g, k), batching.search):
            with pytest.raises(DataError, match=f"k is {k}, the gallery has 6 items; ask for 1 to 6"):
                use("w1", images, k)


def test_without_k_there_are_ten_hits_or_all(retriever, images):
    many = retriever.encode_images(np.random.default_rng(3).standard_normal((12, 5, 12)))
    with BatchingRetriever(retriever, max_delay_ms=0) as batching:
        for gallery, number in ((images, 6), (many, 10)):
            assert len(retriever.search("w1", gallery)) == len(batching.search("w1", gallery)) == number
            assert [len(hits) for hits in retriever.search_many(["w1", "w2"], gallery)] == [number] * 2
        assert len(retriever.search("w1", images, np.int64(3))) == len(batching.search("w1", images, np.uint8(3))) == 3


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([1, 2], r"lengths must be 3 integers, one per image, not int64 \(2,\)"),
        ([1, 2, 2.0], r"lengths must be 3 integers, one per image, and number 2 is a float \(2.0\)"),
        ([1, None, 2], "number 1 is None"),
        ([1, "2", 2], r"number 1 is a str \('2'\)"),
        ([1, [2], 2], "number 1 is a list"),
        ([1, True, 2], r"number 1 is a bool"),
        ([1, 2, 2**70], "number 2 is beyond 64 bits"),
        ({1, 2, 3}, "not a set"),
        ("123", "not one string"),
        (5, "not an int"),
        (np.array([1.0, 2, 3]), r"not float64 \(3,\)"),
        (np.array([True] * 3), r"not bool \(3,\)"),
        (np.array([[1, 2, 3]]), r"not int64 \(1, 3\)"),
        (np.array([1, "x", 2], object), "number 1 is a str"),
        (np.ma.masked_array([1, 2, 3], [0, 1, 0]), "masked"),
        ([1, 0, 2], "lengths must be 1 to 5, the regions in the features, not 0 to 2"),
        ([1, 6, 2], "not 1 to 6"),
        (np.array([1, 2**64 - 1, 2], np.uint64), "lengths must be 1 to 5"),
    ],
)
def test_invalid_lengths(retriever, lengths, says):
    features = np.ones((3, 5, 12), np.float32)
    for use in (retriever.encode_images, lambda *given: Images(retriever, *given)):
        with pytest.raises(InputError, match=says):
            use(features, lengths)


def test_lengths_of_an_equivalent_type(retriever):
    features = np.ones((3, 5, 12), np.float32)
    for lengths in ((1, 2, 5), [np.int8(1), 2, 5], np.array([1, 2, 5], np.uint64), Column([1, 2, 5]), range(3, 6)):
        found = retriever.encode_images(features, lengths).lengths.tolist()
        assert found == ([3, 4, 5] if isinstance(lengths, range) else [1, 2, 5])


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(values=junk)
def test_any_input_gives_scores_or_an_input_error(retriever, images, texts, values):
    for use in (
        lambda: retriever.score_matrix(images, values),
        lambda: retriever.search_many(values, images),
        lambda: retriever.search_many(values, texts),
        lambda: retriever.search(values, images),
        lambda: retriever.search(values, texts),
        lambda: retriever.encode_images(np.ones((2, 5, 12), np.float32), values),
        lambda: retriever.encode_images(np.ones((2, 5, 12), np.float32), ids=values),
        lambda: retriever.search("w1", images, values),
        lambda: retriever.explain(values, "w1"),
        lambda: retriever.explain(np.ones((5, 12), np.float32), values),
    ):
        try:
            use()
        except InputError as error:
            assert str(error)
