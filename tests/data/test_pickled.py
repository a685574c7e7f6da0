"""Pickled vocabularies: read as plain data; nothing else in a pickle is constructed, called or imported."""

import builtins
import collections
import os
import pickle
import sys
import types
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.data.pickled import read_pickled
from caan.data.vocabulary import Vocabulary
from caan.errors import DataError

WORDS = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "dog": 4, "café": 5, "a" * 300: 70_000}


@pytest.fixture
def pickled(monkeypatch):
    """pickled(protocol, module, name="Vocabulary", **attributes): an object of such a class, pickled."""

    def make(protocol, module, name="Vocabulary", **attributes):
        kind = type(name, (), {"__module__": module})
        *parents, _ = [module[: end or None] for end in (*(i for i, c in enumerate(module) if c == "."), 0)]
        for parent in (*parents, module):
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        monkeypatch.setattr(sys.modules[module], name, kind, raising=False)
        instance = kind()
        vars(instance).update(attributes)
        return pickle.dumps(instance, protocol)

    return make


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["vocab", "vocabulary", "data.vocab", "build.old.vocab"])
def test_a_pickled_vocabulary(tmp_path, pickled, protocol, module):
    attributes = {"word2idx": WORDS, "idx2word": {number: word for word, number in WORDS.items()}, "idx": 7}
    (tmp_path / "vocab.pkl").write_bytes(pickled(protocol, module, **attributes))
    vocabulary = Vocabulary.load(tmp_path / "vocab.pkl", "nltk")
    assert vocabulary == Vocabulary(WORDS, "nltk")
    assert vocabulary.encode("Dog café") == [1, 4, 5, 2]


@pytest.mark.parametrize(
    "data",
    [
        # Python 2, protocol 2 and 0: its str is bytes, an old-style class an INST or an OBJ.
        b"\x80\x02cvocab\nVocabulary\nq\x00)\x81q\x01}q\x02U\x08word2idxq\x03}q\x04(U\x05<pad>K\x00U\x07<start>K\x01U\x05<end>"
        b"K\x02U\x05<unk>K\x03U\x05caf\xc3\xa9K\x04usb.",
        b"(ivocab\nVocabulary\np0\n(dp1\nS'word2idx'\np2\n(dp3\nS'<pad>'\np4\nI0\nsS'<start>'\nI1\nsS'<end>'\nI2\nsV<unk>\nL3L\n"
        b"sVcaf\\u00e9\nI4\nssb.",
        b"(ivocab\nVocabulary\n(S'word2idx'\n(S'<pad>'\nI0\nS'<start>'\nI1\nS'<end>'\nI2\nS'<unk>'\nI3\nS'caf\\xc3\\xa9'\nI4\nddb.",
        b"\x80\x02(c__main__\nVocab\noq\x00}q\x01U\x08word2idx}(X\x05\x00\x00\x00<pad>K\x00U\x07<start>K\x01U\x05<end>K\x02U\x05<unk>"
        b"K\x03X\x05\x00\x00\x00caf\xc3\xa9K\x04usb.",
    ],
)
def test_a_vocabulary_pickled_by_python_2(data):
    assert read_pickled(data) == {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3, "café": 4}


def test_a_pickled_dict():
    assert read_pickled(pickle.dumps(WORDS)) == WORDS


class Reducing:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


# Were it called, it would leave a file.
TOUCH = ("import pathlib; pathlib.Path('executed').touch()",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("hostile", "named"),
    [
        (Reducing(os.system, ("touch executed",)), "system"),
        (Reducing(builtins.exec, TOUCH), "builtin"),
        (Reducing(builtins.eval, TOUCH), "builtin"),
        (Reducing(os.getcwd, ()), "getcwd"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (Path("x"), "pathlib.P"),
        (os.system, "system"),
    ],
)
def test_everything_else_is_refused_by_name(tmp_path, monkeypatch, pickled, protocol, hostile, named):
    monkeypatch.chdir(tmp_path)
    for data in (pickle.dumps(hostile, protocol), pickled(protocol, "vocab", word2idx=WORDS, idx=[hostile])):
        (tmp_path / "vocab.pkl").write_bytes(data)
        with pytest.raises(
            DataError, match=r"not a pickled Vocabulary \(it holds .*never executed; save its word2idx"
        ) as info:
            Vocabulary.load(tmp_path / "vocab.pkl")
        assert named in str(info.value)
    assert not (tmp_path / "executed").exists()


V = b"cvocab\nVocabulary\n"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93.", "the opcode POP"),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.", "os.system"),  # a name from the memo
        (b"\x80\x04\x8c\x05vocab\x8c\x13Vocabulary.__init__\x93.", "vocab.Vocabulary.__init__"),
        (b"Pother\n.", "PERSID"),
        (b"\x80\x02NQ.", "BINPERSID"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02" + V + b"(K\x01tR.", "a call of vocab.Vocabulary"),
        (b"\x80\x02" + V + b"}b.", "a _Class with a state"),
        (b"\x80\x02}}b.", "a dict with a state"),
        (b"\x80\x02" + V + b")\x81N}\x86b.", "another state than attributes"),  # slots, that is, setattr
        (b"\x80\x02ccopy_reg\n_reconstructor\n(ccopy_reg\n_reconstructor\nc__builtin__\nobject\nNtR.", "a call of"),
        (b"\x80\x02c__builtin__\nobject\n)R.", "a call of object"),
        (b"\x80\x05\x96\x04\x00\x00\x00\x00\x00\x00\x00abcd.", "it has no word2idx"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.", "damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", "damaged"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", ""),  # a memo of 2³¹ entries: only this one is kept
        (b"\x80\x02}(}}\x86K\x01u.", "other keys"),
        (b"\x80\x02((((", "damaged"),
        (b"\x80\x02.", "damaged"),
        (b"\x80\x02u.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02N.", "it has no word2idx"),
        (pickle.dumps({"word2idx": {"a": "1"}}), "it has no word2idx"),
        (pickle.dumps({"word2idx": {1: 1}}), "it has no word2idx"),
        (pickle.dumps({"word2idx": {"a": [1]}}), "it has no word2idx"),
    ],
)
def test_pickles_that_no_pickler_writes(data, says):
    if says:
        with pytest.raises(ValueError, match=says):
            read_pickled(data)
    else:
        assert read_pickled(data) == {}


def test_keys_that_take_forever_to_hash_are_not_hashed():
    nested = b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 200
    with pytest.raises(ValueError, match="other keys"):
        read_pickled(nested + b"}q\x01h\x00K\x01s.")


@given(st.binary(max_size=60), st.sampled_from([b"\x80\x02", b"\x80\x04", b"(", b"c", b"}"]))
def test_any_bytes_are_read_or_refused(data, start):
    with suppress(ValueError):
        assert isinstance(read_pickled(start + data), dict)


@given(st.data())
def test_a_damaged_vocabulary_is_read_or_refused(data):
    whole = bytearray(pickle.dumps({"word2idx": {"<pad>": 0, "a": 1}, "idx": 2}, data.draw(st.sampled_from([0, 2, 4]))))
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
        whole[position] = data.draw(st.integers(0, 255))
    with suppress(ValueError):
        read_pickled(bytes(whole))
