"""Text input and output: reading files, writing JSON, escaping control characters for terminals.

Standard library only.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import DataError

BOM = b"\xef\xbb\xbf"
_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# Persian, Indic scripts and emoji need these two.
_JOINERS = "\u200c\u200d"


class Lines(list[str]):
    """Texts with their line numbers in a file, so that messages can name the line."""

    def __init__(self, texts: Iterable[str], name: str, numbers: Sequence[int] | None = None) -> None:
        """`numbers`: each text's line, from 1; by default consecutive from the first line."""
        super().__init__(texts)
        self._name, self._numbers = name, numbers

    @property
    def name(self) -> str:
        """Of the file or stream."""
        return self._name

    def part(self, indices: Sequence[int]) -> Lines:
        """A subset of the texts, with their line numbers."""
        numbers = indices if self._numbers is None else [self._numbers[index] - 1 for index in indices]
        return Lines([self[index] for index in indices], self._name, [number + 1 for number in numbers])

    def replaced(self, texts: Iterable[Any]) -> Lines:
        """Other values, such as tokens, with the same line numbers."""
        return Lines(texts, self._name, self._numbers)

    def place(self, index: int) -> str:
        """As "captions.txt, line 3"."""
        return f"{self._name}, line {index + 1 if self._numbers is None else self._numbers[index]}"


def lines_of(content: bytes, name: str) -> Lines:
    r"""The lines of a UTF-8 file or stream called `name`, without their ends, which are \n or \r\n only.

    A byte order mark is dropped. Raises DataError, naming the line, for bytes that are not UTF-8, a zero byte, or a
    carriage return inside a line.
    """
    content = content.removeprefix(BOM)
    lines = []
    # Split on line feeds only: str.splitlines would also split on characters that a caption may hold.
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], 1):
        line, where = raw.rstrip(b"\r"), f"{name}, line {number}"
        if b"\0" in line:
            raise DataError(f"{where} holds a zero byte; text files are UTF-8: convert it, as with iconv -t UTF-8")
        if b"\r" in line:
            raise DataError(f"{where} holds a carriage return; end lines with \\n, as with tr '\\r' '\\n'")
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not UTF-8; convert the file, as with iconv -t UTF-8") from error
    return Lines(lines, name)


def parse_json(content: bytes) -> Any:
    """Parse UTF-8 JSON, with or without a byte order mark. Raises ValueError with the position of the error."""
    try:
        text = content.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"line {content.count(10, 0, error.start) + 1} is not UTF-8") from error
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if _ESCAPED_SURROGATE.search(text) and not _is_unicode(value):
        raise ValueError("it holds a lone surrogate, which is not text")
    return value


def json_text(value: Any, indent: int | None = 2) -> str:
    """Portable JSON: ASCII only, with null for NaN and infinity."""
    try:
        text = json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=indent, allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def visible(text: str, keep: str = "") -> str:
    r"""The text with invisible characters and those a terminal would interpret escaped, as \x1b or \u202e.

    Escaped are control characters except those in `keep`, bidirectional marks, line separators and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_shown(c) else c.encode("unicode_escape").decode() for c in text)


def _is_shown(character: str) -> bool:
    # Also spaces of all widths, and characters newer than this Python's Unicode data.
    return character.isprintable() or character in _JOINERS or unicodedata.category(character) in ("Zs", "Cn", "Co")


def _is_unicode(value: Any) -> bool:
    """Whether all strings in a value are free of lone surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
