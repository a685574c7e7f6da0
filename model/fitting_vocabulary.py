"""A vocabulary against the embedding: every row is a word's, or the words' meanings are shifted or missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError
from .settings import Setting


def fits(vocabulary: Vocabulary, rows: int) -> bool:
    """Whether the vocabulary has one word for each of an embedding's rows."""
    return len(vocabulary.words) == len(vocabulary) == rows


def fitting(
    path: Path, vocabulary: Vocabulary, rows: int, declared: float | None, is_allowed: bool, file: Path | None
) -> tuple[Vocabulary, Setting]:
    """The vocabulary for an embedding of `rows` rows, and where it came from.

    declared: the vocabulary's size as the checkpoint's options say; file: the vocabulary's, None for the checkpoint's
    own. Raises CheckpointError if the sizes differ, unless `is_allowed`; then words without a row count as unknown.
    """
    words, last = len(vocabulary.words), len(vocabulary) - 1
    count = f"{words:,} words" if last == words - 1 else f"{words:,} words with ids up to {last:,}"
    sizes = f"the vocabulary has {count}, the embedding {rows:,} rows"
    is_other = declared is not None and (declared != rows or declared != words)
    if is_other:
        sizes += f", opt.vocab_size is {declared:,.10g}"
    is_fit = fits(vocabulary, rows) and not is_other
    if not is_fit and not is_allowed:
        remedy = (
            f"pass the vocabulary that the model was trained with, not {file} (--vocab)"
            if file is not None
            else "save it again with the vocabulary that the model was trained with (--vocab)"
        )
        raise CheckpointError(
            f"{path}: {sizes}: captions would be read as other words; {remedy}, or, if you know why they differ, add"
            " --allow-vocab-mismatch"
        )
    if last >= rows:
        kept = {word: number for word, number in vocabulary.words.items() if number < rows}
        vocabulary = replace(vocabulary, words=kept)
    note = file.name if file is not None else "the checkpoint's own"
    note = f"{note}; as many as the embedding's rows" if is_fit else f"{note}; {sizes} (--allow-vocab-mismatch)"
    return vocabulary, Setting("vocabulary", count, "option" if file is not None else "file", note)
