"""Files of captions that are tokenized already."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.data.scan import open_split
from caan.data.tokens import read_tokens, tokens_of, with_tokens
from caan.errors import DataError


def test_words_are_separated_by_white_space_and_unchanged(tmp_path):
    (tmp_path / "tokens.txt").write_text("A boy 's  t-shirt .\r\n`` Go ! ''\n", encoding="utf-8")
    tokens = read_tokens(tmp_path / "tokens.txt")
    assert tokens == [["A", "boy", "'s", "t-shirt", "."], ["``", "Go", "!", "''"]]
    assert tokens.place(1) == f"{tmp_path / 'tokens.txt'}, line 2"


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), min_size=1))
def test_json_lists_hold_any_words(captions):
    content = "".join(json.dumps(words) + "\n" for words in captions)
    assert tokens_of(content.encode(), "t.jsonl") == captions


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.txt", "", "t.txt is empty; expected one caption's tokens a line"),
        ("t.txt", "a b\n \nc\n", "t.txt, line 2 is empty; every line must hold one caption's tokens"),
        ("t.jsonl", '["a"]\n[]\n', "t.jsonl, line 2 is empty"),
        ("t.jsonl", '["a"]\na b\n', "t.jsonl, line 2 is not a JSON list of words (Expecting value"),
        ("t.jsonl", '["a", 5]\n', "t.jsonl, line 1 is not a JSON list of words, as ["),
        ("t.jsonl", '"a b"\n', "t.jsonl, line 1 is not a JSON list of words, as ["),
        ("t.jsonl", '["a"]\n["\\ud800"]\n', "t.jsonl, line 2 is not a JSON list of words (it holds a lone surrogate"),
        ("t.jsonl", "[" * 9999 + "\n", "t.jsonl, line 1 is not a JSON list of words (it is nested too deeply"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as info:
        read_tokens(tmp_path / name)
    assert says in str(info.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"can't read .*t\.txt: No such file"):
        read_tokens(tmp_path / "t.txt")


def test_a_data_set_with_its_captions_tokens(tiny_data, tmp_path):
    data = open_split(tiny_data)
    (tmp_path / "tokens.txt").write_text("".join(f"{caption}\n" for caption in data.captions))
    assert with_tokens(data, tmp_path / "tokens.txt").captions == [caption.split() for caption in data.captions]
    (tmp_path / "tokens.txt").write_text("w1\n")
    with pytest.raises(DataError, match=r"tokens\.txt holds 1 captions, test of .* 30"):
        with_tokens(data, tmp_path / "tokens.txt")
