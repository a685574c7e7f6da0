"""Words that a vocabulary's tokenizer never produces."""

from dataclasses import replace

import pytest

from caan.data.unreachable import unreachable_warning, unreachable_words
from caan.data.vocabulary import SPECIAL_TOKENS, TOKENIZERS, Vocabulary

from ..conftest import SHARED

COMMON = [f"word{number}" for number in range(300)]
# Treebank words, most of which only arise within a caption.
TREEBANK = ["'s", "n't", "'ll", "``", "''", "t-shirt", "ca", ".", ",", "(", "...", "--", "u.s.", "gon", "not", "&"]


def vocabulary_of(words, tokenizer):
    return Vocabulary({word: number for number, word in enumerate([*SPECIAL_TOKENS, *words])}, tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "unreachable"),
    [
        ("nltk", []),
        ("word-punct", ["'s", "n't", "'ll", "t-shirt", "u.s."]),
        ("whitespace", ["'s", "n't", "'ll", "``", "''", ".", ",", "(", "..."]),
    ],
)
def test_words_that_arise_only_within_a_caption_are_reachable(tokenizer, unreachable):
    assert unreachable_words(vocabulary_of([*COMMON, *TREEBANK], tokenizer)) == unreachable


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_words_in_capitals_or_with_a_space_are_not(tokenizer):
    assert unreachable_words(vocabulary_of(["TV", "ice cream", "dog"], tokenizer)) == ["TV", "ice cream"]


def test_the_warning_names_the_tokenizer_that_produces_most():
    words = [*COMMON, "t-shirt", "well-lit", "'s", "TV"]
    assert unreachable_warning(vocabulary_of(words, "word-punct")) == (
        "the tokenizer word-punct never produces 4 of the vocabulary's 308 words (t-shirt, well-lit, 's, …); nltk"
        " produces all but 1: --tokenizer nltk"
    )


@pytest.mark.parametrize("words", [[*COMMON, "t-shirt"], ["TV", "CD", "dog"], []])
def test_no_warning_for_a_few_words_or_where_no_tokenizer_is_better(words):
    assert unreachable_warning(vocabulary_of(words, "word-punct")) is None


def test_flickr30ks_vocabulary():
    path = SHARED / "field" / "vocab" / "f30k_precomp_vocab.json"
    if not path.is_file():
        pytest.skip("needs the field's vocabularies, which are for tests only and not part of the project")
    vocabulary = Vocabulary.load(path, "word-punct")
    assert len(unreachable_words(vocabulary)) == 198
    assert "198 of the vocabulary's 8,481 words" in unreachable_warning(vocabulary)
    assert unreachable_words(replace(vocabulary, tokenizer="nltk")) == [".`"]
    assert unreachable_warning(replace(vocabulary, tokenizer="nltk")) is None
