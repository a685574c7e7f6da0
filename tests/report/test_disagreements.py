"""A page shows the pairs and queries with the largest differences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from caan.metrics import parity
from caan.report.disagreements import changed_best, worst_pairs

# Few values, so that ties are common.
SCORES = st.integers(0, 8).map(lambda n: n / 8)
PAIRS = st.tuples(st.integers(1, 5), st.integers(1, 6)).flatmap(
    lambda shape: st.tuples(*[arrays(np.float32, shape, elements=SCORES)] * 2)
)


@given(PAIRS, st.integers(1, 40))
def test_no_pair_left_out_differs_more(matrices, count):
    scores, reference = matrices
    pairs = worst_pairs(scores, reference, count)
    difference = np.abs(scores - reference)
    shown = [abs(pair.score - pair.reference) for pair in pairs]
    assert shown == sorted(difference.ravel().tolist(), reverse=True)[:count]
    assert len({(pair.image, pair.caption) for pair in pairs}) == len(pairs) == min(count, scores.size)
    for pair in pairs:
        assert (pair.score, pair.reference) == (scores[pair.image, pair.caption], reference[pair.image, pair.caption])


@given(PAIRS)
def test_every_query_whose_best_item_changed_is_found(matrices):
    scores, reference = matrices
    changes = changed_best(scores, reference, scores.size)
    truth = np.arange(scores.shape[1]) % scores.shape[0]
    if scores.shape[1] >= scores.shape[0]:  # every image has a caption, as parity requires
        assert len(changes) == parity(scores, reference, truth).rank_flips
    assert [change.gap for change in changes] == sorted((change.gap for change in changes), reverse=True)
    for change in changes:
        before, after = change.before, change.after
        assert before.reference >= after.reference and after.score >= before.score
        if change.direction == "text → image":
            assert before.caption == after.caption and before.image != after.image
            assert after.score == scores[:, after.caption].max()
        else:
            assert before.image == after.image and before.caption != after.caption
            assert after.score == scores[after.image].max()


def test_equal_scores_change_nothing():
    scores = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    assert changed_best(scores, scores.copy(), 5) == []
