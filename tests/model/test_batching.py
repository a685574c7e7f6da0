"""Batches hold captions of similar length, each caption once."""

import numpy as np

from caan.model.batching import batches_of


def test_every_caption_is_in_one_batch_of_like_length():
    lengths = np.random.default_rng(0).integers(3, 30, 1000)
    batches = batches_of(lengths, 32, (0, 1))
    assert sorted(np.concatenate(batches)) == list(range(1000))
    assert [len(batch) for batch in batches].count(32) == 31
    padding = sum(len(batch) * lengths[batch].max() for batch in batches) / lengths.sum() - 1
    assert padding < 0.2
    assert not np.array_equal(batches[0], batches_of(lengths, 32, (0, 2))[0])
