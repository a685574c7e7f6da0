"""Pickles of plain data are read as NumPy and Python would; everything else is refused, and nothing runs."""

import collections
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.data.plain_pickle import load_plain
from caan.errors import DataError

PLAIN = {
    "big endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "Fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.arange(3, dtype=np.float16),
    "number": np.float32(2.5),
    "bytes": b"\x00\xff",
    "text": "ü",
    "nothing": None,
    "objects": np.array([{"image_w": 3}, {"image_w": 4}], object),
    "ordered": collections.OrderedDict(a=[1, 2.5, True]),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("what", PLAIN)
def test_plain_data_of_every_protocol(what, protocol):
    np.testing.assert_equal(load_plain(pickle.dumps(PLAIN[what], protocol), "x"), PLAIN[what])


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_pickle_is_named_and_not_run(tmp_path):
    content = pickle.dumps([1, Attack(str(tmp_path / "made"))])
    with pytest.raises(DataError, match=r"features.pkl is a pickle that holds .*open, not only plain data; nothing"):
        load_plain(content, "features.pkl")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2])[:-1],
        pickle.dumps(np.ndarray),
        pickle.dumps(np.array(["text"])),
        pickle.dumps(np.zeros(3, "V8")),
        b"cnumpy\nndarray\n}S'__call__'\nI1\nsb.",  # would set an attribute of a class
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"Pid\n.",
        b"cbuiltins\ngetattr\n.",
        b"]\x94\x68\x00a.",  # a list that holds itself
        b"cbuiltins\nbytearray\n(L9999999999999L\ntR.",  # a size, not bytes
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
        b"ccollections\nOrderedDict\n((lp0\n(()I1\ntp1\natR.",  # a key that isn't text
        pickle.dumps({1, 2}),
    ],
)
def test_everything_else_is_a_data_error(content):
    with pytest.raises(DataError, match="x is "):
        load_plain(content, "x")


def test_a_small_pickle_does_not_grow():
    value = [0]
    for _ in range(60):
        value = [value, value]  # 2^60 numbers, were they not shared
    loaded = load_plain(pickle.dumps(value), "x")
    assert loaded[0] is loaded[1]


@given(st.binary(max_size=40))
def test_any_bytes_are_plain_data_or_a_data_error(content):
    try:
        load_plain(content, "x")
    except DataError as error:
        assert "x is " in str(error)
