"""Text files, JSON and terminals: what is read, written and shown."""

import json
import pickle
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan._text import Lines, json_text, lines_of, parse_json, visible
from caan.errors import DataError


def test_lines_know_where_they_stand():
    lines = lines_of(b"a\r\nb\n\nd", "file.txt")
    assert lines == ["a", "b", "", "d"] and lines.place(3) == "file.txt, line 4"
    some = lines.part([1, 3])
    assert some == ["b", "d"] and [some.place(0), some.place(1)] == ["file.txt, line 2", "file.txt, line 4"]
    assert some.part([1]).place(0) == "file.txt, line 4"
    assert pickle.loads(pickle.dumps(some)).place(1) == "file.txt, line 4"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\n\n", ["a", ""]),
        (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        (b" a \r\n\tb", [" a ", "\tb"]),
        ("a\u2028\x0b\x0c\x1c\x85b".encode(), ["a\u2028\x0b\x0c\x1c\x85b"]),
    ],
)
def test_what_is_a_line(content, lines):
    assert lines_of(content, "file.txt") == lines


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\nb\xff\n", "file.txt, line 2 is not UTF-8"),
        ("a\nb\n".encode("utf-16"), "file.txt, line 1 "),
        ("a\nb\n".encode("utf-16-le"), "file.txt, line 1 holds a zero byte"),
        (b"a\n\nb\0", "file.txt, line 3 holds a zero byte"),
        (b"a\rb\rc", "file.txt, line 1 holds a carriage return"),
        (b"a\n\xed\xa0\x80", "file.txt, line 2 is not UTF-8"),
    ],
)
def test_what_is_not_a_text_file_is_named_by_its_line(content, says):
    with pytest.raises(DataError, match=says):
        lines_of(content, "file.txt")


def test_json_is_read_with_a_byte_order_mark_or_without():
    content = json.dumps({"é": [1, "😀"]}, ensure_ascii=False).encode()
    assert parse_json(content) == parse_json(b"\xef\xbb\xbf" + content) == {"é": [1, "😀"]}
    assert parse_json(b'"\\ud83d\\ude00"') == "😀"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{\n"a": "\xff"}', "line 2 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'"\\ud800"', "a lone surrogate"),
        (b'{"\\uDFFFx": 1}', "a lone surrogate"),
        (b"{", "line 1"),
        (b"", "line 1"),
    ],
)
def test_what_is_not_json_is_a_value_error_that_says_where(content, says):
    with pytest.raises(ValueError, match=says):
        parse_json(content)


numbers = st.floats() | st.integers()
values = st.recursive(numbers | st.text() | st.none(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))


@given(values)
def test_json_is_ascii_and_strict_whatever_the_value(value):
    text = json_text(value)
    assert text.isascii() and "\x7f" not in text
    back = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert back == json.loads(json.dumps(value), parse_constant=lambda name: None)


@given(st.text(st.characters(codec=None)))
def test_a_terminal_obeys_nothing_that_is_shown(text):
    shown = visible(text)
    hidden = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert hidden <= {"\u200c", "\u200d"}
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫 👩‍🚀", "plain é 猫 👩‍🚀"),
        ("\x1b]52;c;eA==\x07", "\\x1b]52;c;eA==\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
        ("a\rb\nc\td\x7f", "a\\rb\\nc\\td\\x7f"),
        ("\udce9\u2028\ufeff\U000e0041", "\\udce9\\u2028\\ufeff\\U000e0041"),
    ],
)
def test_what_is_written_out(text, shown):
    assert visible(text) == shown


def test_line_ends_may_be_kept():
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_lines_of_the_first_lines_count_from_one():
    assert Lines(["a", "b"], "f").place(1) == "f, line 2"
