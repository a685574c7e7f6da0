"""Pickled `Vocabulary` objects, as SCAN's first version saved them, read without executing anything."""

from __future__ import annotations

from .plain_pickle import RefusedError, load_object

_CLASSES = ("Vocabulary", "Vocab")
_ADVICE = "; save its word2idx as JSON: json.dump(vocabulary.word2idx, file)"


def is_pickled(data: bytes) -> bool:
    """Whether this begins as a pickle does, and as no JSON."""
    return data.startswith((b"\x80", b"(", b"c", b"}"))


def read_pickled(data: bytes) -> dict[str, int]:
    """word → id, from a pickled Vocabulary or a pickled dict.

    Raises ValueError for damaged data, and, naming it, for anything but plain data and a Vocabulary.
    """
    try:
        content = load_object(data, _CLASSES)
    except RefusedError as error:
        raise ValueError(f"it holds {error}, which is never executed{_ADVICE}") from error
    except ValueError as error:
        raise ValueError("it is damaged; copy it again") from error
    words = content.get("word2idx", content) if isinstance(content, dict) else None
    if not isinstance(words, dict) or not all(
        isinstance(word, str) and isinstance(number, int) for word, number in words.items()
    ):
        raise ValueError("it has no word2idx {word: id}" + _ADVICE)
    return words
