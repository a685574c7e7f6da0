"""Words of a vocabulary that its tokenizer never produces: a sign that the model was trained with another one."""

from __future__ import annotations

import re
from dataclasses import replace

from .._text import visible
from .vocabulary import SPECIAL_TOKENS, TOKENIZERS, Vocabulary

# What people write without space behind a word: punctuation, and what only follows one, as 's and n't.
_ATTACHED = re.compile(r"[^\w\s&+*/-]+|'(?:s|m|d|t|re|ve|ll)|n't")
_MOST_SHARE = 1 / 200
_NAMED = 3


def unreachable_words(vocabulary: Vocabulary) -> list[str]:
    """The words that the vocabulary's tokenizer makes of no caption as people type them, in the vocabulary's order."""
    words = [word for word in vocabulary.words if word not in SPECIAL_TOKENS]
    # Together first: one long caption is faster than one for each word.
    found = set(vocabulary.tokenize(" ".join(word for word in words if not _ATTACHED.fullmatch(word))))
    return [word for word in words if word not in found and not _is_reachable(word, vocabulary)]


def unreachable_warning(vocabulary: Vocabulary) -> str | None:
    """A warning that names a better tokenizer, if over 0.5 % of the words are unreachable and another has fewer."""
    words = unreachable_words(vocabulary)
    if len(words) <= len(vocabulary.words) * _MOST_SHARE:
        return None
    left = {name: len(unreachable_words(replace(vocabulary, tokenizer=name))) for name in TOKENIZERS}
    best = min(left, key=lambda name: left[name])
    if left[best] >= len(words):
        return None
    shown = ", ".join(visible(word) for word in words[:_NAMED])
    rest = "all of them" if left[best] == 0 else f"all but {left[best]}"
    return (
        f"the tokenizer {vocabulary.tokenizer} never produces {len(words)} of the vocabulary's"
        f" {len(vocabulary.words):,} words ({shown}, …); {best} produces {rest}: --tokenizer {best}"
    )


def _is_reachable(word: str, vocabulary: Vocabulary) -> bool:
    captions = [f"x{word}", f"x{word} x", f"x {word}x"]
    if not _ATTACHED.fullmatch(word):
        captions += [word, f"x {word} x"]
    return any(word in vocabulary.tokenize(caption) for caption in captions)
