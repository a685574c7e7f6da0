"""Vocabularies may give the special words any ids: a model with its ids in another order scores as before."""

import numpy as np
import pytest
import torch

from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.errors import DataError
from caan.model.checkpoint import load_checkpoint, save_checkpoint
from caan.runtime import Retriever
from caan.runtime.inputs import random_captions

CAPTIONS = ["w1", "w2 zebra w3 w4 w5", "w7 " * 12, "zebra w9"]


@pytest.fixture(scope="module")
def both(tiny_folder, tmp_path_factory):
    """The tiny model, and the same with its ids reversed: `<pad>` is the last, a word is 0."""
    loaded = load_checkpoint(tiny_folder / "model.pt")
    last = len(loaded.vocabulary) - 1
    reversed_ids = Vocabulary({word: last - number for word, number in loaded.vocabulary.words.items()})
    with torch.no_grad():
        embedding = loaded.model.text_encoder.embedding.weight
        embedding.copy_(embedding.flip(0))
    path = tmp_path_factory.mktemp("reversed") / "model.pt"
    save_checkpoint(path, loaded.model, reversed_ids)
    return [Retriever.open(place, "torch") for place in (tiny_folder / "model.pt", path)]


def test_scores_do_not_depend_on_the_ids(both):
    features = np.random.default_rng(0).standard_normal((5, 4, 12)).astype(np.float32)
    expected, found = (one.score_dataset(features, CAPTIONS) for one in both)
    np.testing.assert_array_equal(found, expected)
    explained = both[1].explain(features[0], "w2 zebra")
    assert explained.words == ["<start>", "w2", "zebra", "<end>"]
    assert explained.known == [True, True, False, True]


def test_a_caption_without_a_known_word_is_refused(both):
    for one in both:
        gallery = one.encode_images(np.ones((2, 4, 12), np.float32))
        with pytest.raises(DataError, match="no word of 'zebra snake'"):
            one.search("zebra snake", gallery)


def test_random_captions_hold_no_special_word(both):
    for one in both:
        words = {word for caption in random_captions(one.backend.model.vocabulary, 200) for word in caption}
        assert not words & SPECIAL_TOKENS.keys()
