"""What an export says of its data set."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from caan.data.scan import ScanSplit
from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.errors import CaanWarning
from caan.export.data_settings import data_settings

WORDS = {word: number for number, word in enumerate([*SPECIAL_TOKENS, "a", "dog", "'s", "hat", "."])}


def split_of(captions):
    """A data set of these captions."""
    features = np.zeros((len(captions), 1, 1), np.float32)
    return ScanSplit(Path("f8k"), "test", features, captions, np.arange(len(captions)), None, layout="one row each")


@pytest.mark.parametrize("tokenizer", ["whitespace", "word-punct"])
def test_another_tokenizer_that_knows_more_words_is_named(tokenizer):
    with pytest.warns(CaanWarning, match=rf"% of the words .* {tokenizer}, 0.0 % with nltk"):
        settings = data_settings(Vocabulary(WORDS, tokenizer), split_of(["A dog's hat."]))
    assert settings[0].as_dict() == {"name": "data set", "value": "one row each", "source": "data", "note": "f8k test"}


@pytest.mark.parametrize(
    ("captions", "unknown"),
    [
        (["A dog 's hat ."], "0.00 %: 0 of 5 in f8k test"),
        (["A cat ."], "33.33 %: 1 of 3 in f8k test"),  # of every tokenizer
        ([["A", "dog", "hat."]], "66.67 %: 2 of 3 in f8k test"),  # tokens need none
    ],
)
def test_the_share_of_unknown_words(captions, unknown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (_, share) = data_settings(Vocabulary(WORDS), split_of(captions))
    assert f"{share.value}: {share.note}" == unknown
