"""Words → ids: the tokenizers and the vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._files import atomic_file, read_input
from .._text import json_text, parse_json
from ..errors import DataError
from .pickled import is_pickled, read_pickled
from .treebank import word_tokenize

# The words that every vocabulary has, with their ids in those that are built here. Others may number them otherwise.
SPECIAL_TOKENS = {"<pad>": 0, "<start>": 1, "<end>": 2, "<unk>": 3}

_WORD_PUNCT = re.compile(r"\w+|[^\w\s]+")

_LARGEST_ID = 1 << 53

# All tokenizers lower-case captions first, as is usual for this field's data sets.
TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "whitespace": lambda caption: caption.lower().split(),
    "word-punct": lambda caption: _WORD_PUNCT.findall(caption.lower()),
    "nltk": lambda caption: word_tokenize(caption.lower()),
}


@dataclass(frozen=True)
class Vocabulary:
    """Word ids and their tokenizer.

    words: word → id, among them `<pad>`, `<start>`, `<end>` and `<unk>`. Raises DataError for any other content.
    names_tokenizer: whether the file it was loaded from names a tokenizer.
    """

    words: dict[str, int]
    tokenizer: str = "whitespace"
    names_tokenizer: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.tokenizer, str) or self.tokenizer not in TOKENIZERS:
            raise DataError(f"unknown tokenizer '{self.tokenizer}'; known: {', '.join(TOKENIZERS)}")
        for token in SPECIAL_TOKENS:
            if token not in self.words:
                raise DataError(
                    f"the vocabulary lacks {token}; <pad>, <start>, <end> and <unk> need the ids that the model was"
                    " trained with"
                )
        try:
            "".join(self.words).encode("utf-8")
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError(f"the vocabulary has a word that is not text ({error})") from error
        numbers = self.words.values()
        if not all(isinstance(number, int) and 0 <= number <= _LARGEST_ID for number in numbers):
            raise DataError("the vocabulary maps some word to something that is not an id (an integer, 0 or more)")
        if len(set(numbers)) != len(self.words):
            raise DataError("the vocabulary gives two words the same id")

    def __len__(self) -> int:
        """Rows of an embedding for this vocabulary: the largest id plus one."""
        return max(self.words.values()) + 1

    def tokenize(self, caption: str) -> list[str]:
        """A caption's words in lower case, without `<start>` and `<end>`."""
        return TOKENIZERS[self.tokenizer](caption)

    def encode(self, caption: str | Sequence[str]) -> list[int]:
        """The ids of a caption (text, or its tokens), `<start>` and `<end>` included. Raises as `words_of`."""
        return self.ids_of(self.words_of(caption))

    def ids_of(self, words: Sequence[str]) -> list[int]:
        """As `encode`, for the result of `words_of`."""
        unknown = self.unknown
        return [self.words["<start>"], *(self.words.get(word, unknown) for word in words), self.words["<end>"]]

    @property
    def unknown(self) -> int:
        """The id of `<unk>`, which all words outside the vocabulary get."""
        return self.words["<unk>"]

    def all_unknown(self, ids: Sequence[int]) -> bool:
        """Whether no word of a caption is known. ids: as `encode` returns them."""
        unknown = self.unknown
        return all(number == unknown for number in ids[1:-1])

    def words_of(self, caption: str | Sequence[str]) -> Sequence[str]:
        """As `tokenize`; returns a tokenized caption unchanged.

        Raises DataError if the caption holds no word, or bytes that are not UTF-8.
        """
        if isinstance(caption, str):
            # Python decodes invalid UTF-8 in command line arguments to lone surrogates.
            if any("\ud800" <= character <= "\udfff" for character in caption):
                raise DataError(f"the caption {caption[:60]!a} is not UTF-8 text; convert it first, as with iconv")
            tokens: Sequence[str] = self.tokenize(caption)
        else:
            tokens = caption
        if not tokens:
            raise DataError("the caption is empty; write at least one word")
        return tokens

    def unknown_words(self, caption: str | Sequence[str]) -> list[str]:
        """A caption's words that are not in the vocabulary, in order. Raises as `words_of`."""
        return [word for word in self.words_of(caption) if word not in self.words]

    @classmethod
    def build(cls, captions: Iterable[str], tokenizer: str = "whitespace", min_count: int = 4) -> Vocabulary:
        """The words that occur at least `min_count` times in the captions, in alphabetical order."""
        if tokenizer not in TOKENIZERS:
            raise DataError(f"unknown tokenizer '{tokenizer}'; known: {', '.join(TOKENIZERS)}")
        counts = Counter(word for caption in captions for word in TOKENIZERS[tokenizer](caption))
        kept = sorted(word for word, count in counts.items() if count >= min_count and word not in SPECIAL_TOKENS)
        return cls({word: number for number, word in enumerate([*SPECIAL_TOKENS, *kept])}, tokenizer)

    @classmethod
    def load(cls, path: Path, tokenizer: str | None = None, default: str = "whitespace") -> Vocabulary:
        """Read SCAN's format `{"word2idx", "idx2word", "idx"}`, as JSON or pickled, this project's, or `{word: id}`.

        tokenizer: overrides the file's; default: for SCAN's format and the plain one, which have none. Raises DataError
        if the file is missing, neither JSON nor a pickle of such a vocabulary, or has other content. Nothing in a
        pickle is ever executed.
        """
        try:
            data = read_input(path)
        except OSError as error:
            raise DataError(f"can't read the vocabulary {path}: {error.strerror}") from error
        read, form = (read_pickled, "a pickled Vocabulary") if is_pickled(data) else (parse_json, "JSON in UTF-8")
        try:
            content: Any = read(data)
        except ValueError as error:
            raise DataError(f"{path} is not a vocabulary: not {form} ({error})") from error
        words, named = content, None
        if isinstance(content, dict) and content.get("format") == "caan-vocabulary":
            words, named = content.get("words"), content.get("tokenizer")
        elif isinstance(content, dict) and isinstance(content.get("word2idx"), dict):
            words = content["word2idx"]
        if not isinstance(words, dict):
            raise DataError(f"{path} is not a vocabulary: expected {{word: id}} or SCAN's {{'word2idx': …}}")
        try:
            return cls(words, tokenizer or named or default, names_tokenizer=bool(named))
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Write this project's format: `{"format": "caan-vocabulary", "version", "tokenizer", "words"}`."""
        with atomic_file(path) as temporary:
            temporary.write_text(json_text(self.as_dict(), indent=0) + "\n", encoding="ascii")

    def as_dict(self) -> dict[str, Any]:
        return {"format": "caan-vocabulary", "version": 1, "tokenizer": self.tokenizer, "words": self.words}
