"""Captions, ids and vocabularies in files from any editor: content is kept, framing (BOM, line ends) is not."""

import json

import numpy as np
import pytest

from caan.data.scan import open_split, read_captions, read_ids
from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.errors import DataError

BOM = b"\xef\xbb\xbf"
READERS = {"caption": read_captions, "id": read_ids}


@pytest.fixture
def read(tmp_path):
    """read(what, content): the lines of a file of captions or ids."""

    def call(what, content):
        (tmp_path / "file.txt").write_bytes(content)
        return READERS[what](tmp_path / "file.txt")

    return call


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", BOM])
@pytest.mark.parametrize("last", [True, False])
def test_framing_changes_nothing(read, what, end, start, last):
    content = start + end.join([b"a.jpg", b"b c", "é\u2028x\u0085y".encode()]) + (end if last else b"")
    assert read(what, content) == ["a.jpg", "b c", "é\u2028x\u0085y"]


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (b"a\nb\0c\n", 2, "zero byte"),
        (b"a\rb\r", 1, "carriage return"),
        (b"a\nb\nc\xe9\n", 3, "not UTF-8"),
        (b"a\n\xed\xb3\xa9\n", 2, "not UTF-8"),
        (b"a\n\nb\n", 2, "is empty"),
        (b"a\n\xf4\x90\x80\x80\n", 2, "not UTF-8"),
        ("a\nb\n".encode("utf-16"), 1, ""),
        ("a\nb\n".encode("utf-32"), 1, ""),
    ],
)
def test_what_is_not_text_is_named_by_file_and_line(read, what, content, line, says):
    with pytest.raises(DataError, match=rf"file\.txt, line {line} .*{says}"):
        read(what, content)


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("content", [b"", BOM])
def test_an_empty_file_is_refused(read, what, content):
    with pytest.raises(DataError, match=rf"file\.txt is empty; expected one {what} a line"):
        read(what, content)


def test_ids_keep_their_white_space(read):
    assert read("id", BOM + b" a\nb \n\tc\n d \r\n") == [" a", "b ", "\tc", " d "]
    assert read("caption", b" a\nb \n") == ["a", "b"]


@pytest.mark.parametrize("form", ["ours", "scan", "plain"])
def test_a_vocabulary_with_a_byte_order_mark(tmp_path, form):
    words = {**SPECIAL_TOKENS, "été": 4, "猫": 5}
    content = {
        "ours": {"format": "caan-vocabulary", "version": 1, "tokenizer": "word-punct", "words": words},
        "scan": {"word2idx": words, "idx2word": {}, "idx": 6},
        "plain": words,
    }[form]
    (tmp_path / "vocab.json").write_bytes(BOM + json.dumps(content, ensure_ascii=False).encode())
    assert Vocabulary.load(tmp_path / "vocab.json").words == words


def test_a_vocabulary_of_any_words_is_read_as_it_was_written(tmp_path):
    words = {**SPECIAL_TOKENS, "\x1b]52;": 4, "\u2028": 5, "😀": 6, "\x7f": 7, '"\\': 8, "\ufeffa": 9}
    Vocabulary(words).save(tmp_path / "vocab.json")
    assert (tmp_path / "vocab.json").read_bytes().isascii()
    assert Vocabulary.load(tmp_path / "vocab.json").words == words


@pytest.mark.parametrize("word", ["\ud800", "a\udfff", 3, None, b"x"])
def test_a_word_that_is_not_text_is_refused(word):
    with pytest.raises(DataError, match="has a word that is not text"):
        Vocabulary({**SPECIAL_TOKENS, word: 4})


@pytest.mark.parametrize("content", [b'{"a\\ud800": 4}', b'{\n"\xff": 4}', b"\xff\xfe{\0}\0", b"[" * 99_999, b"{]"])
def test_a_vocabulary_that_is_not_json(tmp_path, content):
    (tmp_path / "vocab.json").write_bytes(content)
    with pytest.raises(DataError, match=r"vocab\.json is not a vocabulary: not JSON in UTF-8 \("):
        Vocabulary.load(tmp_path / "vocab.json")


def test_a_data_set_of_an_editor_on_windows(tmp_path):
    np.save(tmp_path / "test_ims.npy", np.ones((2, 1, 1), np.float32))
    (tmp_path / "test_caps.txt").write_bytes(BOM + b"".join(b"caption %d\r\n" % n for n in range(10)))
    (tmp_path / "test_ids.txt").write_bytes(BOM + b"a.jpg\r\nb.jpg\r\n")
    split = open_split(tmp_path)
    assert split.captions[0] == "caption 0" and split.ids == ["a.jpg", "b.jpg"]
