"""Files of captions that are tokenized already, for models whose tokenizer is none of caan's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from .._text import Lines, lines_of, parse_json
from ..errors import DataError
from .scan import ScanSplit, read_text_file


def read_tokens(path: Path) -> Lines:
    """The tokens of captions, a list of words per line. Raises DataError as `tokens_of`, and for a line without any."""
    tokens = tokens_of(read_text_file(path), str(path))
    for index, words in enumerate(tokens):
        if not words:
            raise DataError(f"{tokens.place(index)} is empty; every line must hold one caption's tokens")
    return tokens


def with_tokens(data: ScanSplit, path: Path) -> ScanSplit:
    """A data set's split with the tokens of its captions. Raises DataError as `read_tokens`, and for another number."""
    tokens = read_tokens(path)
    if len(tokens) != len(data.captions):
        raise DataError(f"{path} holds {len(tokens)} captions, {data.split} of {data.folder} {len(data.captions)}")
    return replace(data, captions=tokens)


def tokens_of(content: bytes, name: str) -> Lines:
    """As `read_tokens`, from the content of a file or stream called `name`, where a line may lack tokens.

    Words are separated by white space; each line of a `.jsonl` file is a JSON list of words. Raises DataError, naming
    the line, for any other content, and as `lines_of`.
    """
    lines = lines_of(content, name)
    if not lines:
        raise DataError(f"{name} is empty; expected one caption's tokens a line")
    if not name.endswith(".jsonl"):
        return lines.replaced(line.split() for line in lines)
    return lines.replaced(_words(line, lines.place(index)) for index, line in enumerate(lines))


def _words(line: str, place: str) -> list[str]:
    try:
        words = parse_json(line.encode())
    except ValueError as error:
        raise DataError(f"{place} is not a JSON list of words ({error})") from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise DataError(f'{place} is not a JSON list of words, as ["a", "dog", "\'s", "ball"]')
    return words
