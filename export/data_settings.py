"""What an export assumed of its data set: which captions belong to an image, and how many words the model knows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from ..data.scan import ScanSplit
from ..data.vocabulary import TOKENIZERS, Vocabulary
from ..errors import CaanWarning
from ..model.settings import Setting

# A larger share of unknown words may come from a tokenizer that the vocabulary was not made with.
_MUCH = 0.02


def data_settings(vocabulary: Vocabulary, data: ScanSplit) -> list[Setting]:
    """The layout that was read, and the share of words that are not in the vocabulary.

    Warns if another tokenizer finds many more of the captions' words in the vocabulary, as where punctuation stays on
    words.
    """
    name = f"{data.folder.resolve().name} {data.split}"
    words, unknown = _counts(vocabulary, data.captions)
    share = unknown / max(words, 1)
    if share > _MUCH and isinstance(data.captions[0], str):
        shares = {}
        for tokenizer in TOKENIZERS:
            total, missing = _counts(replace(vocabulary, tokenizer=tokenizer), data.captions)
            shares[tokenizer] = missing / max(total, 1)
        best = min(shares, key=lambda tokenizer: shares[tokenizer])
        if shares[best] < share / 2:
            warnings.warn(
                f"{100 * share:.1f} % of the words of {name} are unknown with the tokenizer {vocabulary.tokenizer},"
                f" {100 * shares[best]:.1f} % with {best}; was the model trained with that one?",
                CaanWarning,
                stacklevel=2,
            )
    return [
        Setting("data set", data.layout, "data", name),
        Setting("unknown words", f"{100 * share:.2f} %", "data", f"{unknown:,} of {words:,} in {name}"),
    ]


def _counts(vocabulary: Vocabulary, captions: Sequence[str | Sequence[str]]) -> tuple[int, int]:
    """The captions' words, and how many of them are unknown."""
    words = [vocabulary.words_of(caption) for caption in captions]
    return sum(map(len, words)), sum(word not in vocabulary.words for caption in words for word in caption)
