"""Metrics against a slow literal reading of their definitions."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from caan.errors import DataError
from caan.metrics import five_fold_metrics, parity, retrieval_metrics


def literal_ranks(scores, relevance):
    """The rank, from 1, of each row's best relevant item: behind every irrelevant item that is not worse."""
    ranks = []
    for row, relevant in zip(scores, relevance, strict=True):
        best = max(score for score, good in zip(row, relevant, strict=True) if good)
        ranks.append(1 + sum(1 for score, good in zip(row, relevant, strict=True) if not good and score >= best))
    return ranks


def literal(scores, relevance):
    ranks = literal_ranks(scores, relevance)
    recalls = [100 * sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)]
    return [*recalls, float(np.floor(np.median(ranks))), sum(ranks) / len(ranks)]


def values(direction):
    return [direction.r1, direction.r5, direction.r10, direction.median_rank, direction.mean_rank]


def assert_literal(metrics, scores, relevance):
    image_to_text, text_to_image = literal(scores, relevance), literal(scores.T, relevance.T)
    assert values(metrics.image_to_text) == pytest.approx(image_to_text)
    assert values(metrics.text_to_image) == pytest.approx(text_to_image)
    assert metrics.rsum == pytest.approx(sum(image_to_text[:3]) + sum(text_to_image[:3]))


@st.composite
def score_matrices(draw, captions_per_image=None):
    """Small matrices; a coarse grid of values makes many ties."""
    images = draw(st.integers(1, 7))
    captions = images * captions_per_image if captions_per_image else draw(st.integers(1, 20))
    values = draw(st.lists(st.integers(-3, 3), min_size=images * captions, max_size=images * captions))
    return np.array(values, np.float32).reshape(images, captions) / 4


@given(scores=score_matrices(captions_per_image=5))
def test_five_captions_per_image(scores):
    relevance = np.arange(len(scores))[:, None] == np.arange(scores.shape[1]) // 5
    assert_literal(retrieval_metrics(scores), scores, relevance)


@given(scores=score_matrices(), data=st.data())
def test_a_relevance_matrix_of_any_kind(scores, data):
    size = scores.size
    relevance = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size))).reshape(scores.shape)
    assume(relevance.any(axis=0).all() and relevance.any(axis=1).all())
    assert_literal(retrieval_metrics(scores, relevance=relevance), scores, relevance)


@given(scores=score_matrices(captions_per_image=2), data=st.data())
def test_captions_in_any_order(scores, data):
    image_of_caption = np.array(data.draw(st.permutations([i for i in range(len(scores)) for _ in range(2)])))
    relevance = np.arange(len(scores))[:, None] == image_of_caption
    assert_literal(retrieval_metrics(scores, image_of_caption), scores, relevance)


@given(scores=score_matrices(captions_per_image=5), scale=st.floats(0.1, 9), shift=st.floats(-9, 9))
def test_only_the_order_of_scores_matters(scores, scale, shift):
    assert retrieval_metrics(scores) == retrieval_metrics(scores.astype(np.float64) * scale + shift)


def test_a_perfect_model():
    metrics = retrieval_metrics(np.repeat(np.eye(12), 5, axis=1))
    assert metrics.rsum == 600
    assert values(metrics.image_to_text) == values(metrics.text_to_image) == [100, 100, 100, 1, 1]


def test_a_model_that_scores_everything_alike_retrieves_nothing():
    metrics = retrieval_metrics(np.zeros((20, 100)))
    assert metrics.rsum == 0
    assert metrics.image_to_text.mean_rank == 96  # behind all 95 captions of other images
    assert metrics.text_to_image.mean_rank == 20


def test_the_numbers_of_a_case_done_by_hand():
    scores = np.array([[0.9, 0.1, 0.8], [0.3, 0.2, 0.7]])
    metrics = retrieval_metrics(scores, np.array([0, 1, 1]))
    assert (metrics.image_to_text.r1, metrics.image_to_text.mean_rank) == (100, 1)
    assert metrics.text_to_image.r1 == pytest.approx(200 / 3)  # caption 2 finds image 0 first
    assert metrics.text_to_image.mean_rank == pytest.approx(4 / 3)
    assert metrics.as_dict()["rsum"] == metrics.rsum


def test_infinite_scores_are_ranked():
    scores = np.array([[np.inf, 0.0], [0.0, -np.inf]])
    assert retrieval_metrics(scores).image_to_text.r1 == 50


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type(dtype):
    assert retrieval_metrics(np.eye(3, dtype=dtype)).rsum == 600


def test_nan_is_refused():
    scores = np.eye(3)
    scores[1, 2] = np.nan
    for call in (
        retrieval_metrics,
        lambda s: parity(s, np.eye(3), np.arange(3)),
        lambda s: parity(np.eye(3), s, np.arange(3)),
    ):
        with pytest.raises(DataError, match="NaN"):
            call(scores)


@pytest.mark.parametrize("shape", [(3,), (0, 5), (3, 0), (2, 2, 2), ()])
def test_scores_that_are_no_matrix_are_refused(shape):
    with pytest.raises(DataError, match="must be \\(images, captions\\)"):
        retrieval_metrics(np.zeros(shape))


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        ({}, "7 captions don't divide among 3 images"),
        ({"image_of_caption": np.zeros(6, int)}, "expected \\(7,\\)"),
        ({"image_of_caption": np.zeros(7, int)}, "query 1 has no relevant item"),
        ({"image_of_caption": np.array([0, 1, 2, 3, 0, 0, 0])}, "query 3 has no relevant item"),
        ({"relevance": np.ones((7, 3), bool)}, "ground truth is \\(7, 3\\)"),
        ({"relevance": np.zeros((3, 7), bool)}, "query 0 has no relevant item"),
    ],
)
def test_a_ground_truth_that_does_not_fit_is_refused(truth, says):
    with pytest.raises(DataError, match=says):
        retrieval_metrics(np.zeros((3, 7)), **truth)


def test_the_median_is_rounded_down_as_in_scan():
    """np.floor(np.median(ranks)) + 1 of the ranks from 0, here 1 and 0."""
    metrics = retrieval_metrics(np.array([[1.0, 2.0], [0.0, 1.5]]))
    assert (metrics.image_to_text.median_rank, metrics.image_to_text.mean_rank) == (1, 1.5)


def test_five_folds_are_the_mean_of_five_blocks():
    scores = np.random.default_rng(3).standard_normal((20, 100))
    folds = [retrieval_metrics(scores[4 * n : 4 * n + 4, 20 * n : 20 * n + 20]) for n in range(5)]
    metrics = five_fold_metrics(scores)
    assert values(metrics.image_to_text) == pytest.approx(np.mean([values(f.image_to_text) for f in folds], axis=0))
    assert values(metrics.text_to_image) == pytest.approx(np.mean([values(f.text_to_image) for f in folds], axis=0))
    assert metrics.rsum == pytest.approx(np.mean([f.rsum for f in folds]))


def test_five_folds_do_not_see_what_lies_between_the_blocks():
    scores = np.full((10, 50), 9.0)
    for n in range(5):
        scores[2 * n : 2 * n + 2, 10 * n : 10 * n + 10] = np.repeat(np.eye(2), 5, axis=1)
    assert five_fold_metrics(scores).rsum == 600
    assert retrieval_metrics(scores).rsum < 600


@pytest.mark.parametrize("shape", [(7, 35), (10, 52)])
def test_five_folds_that_do_not_divide_are_refused(shape):
    with pytest.raises(DataError, match="don't divide into 5 folds"):
        five_fold_metrics(np.zeros(shape))


def test_a_matrix_equals_itself():
    scores = np.random.default_rng(4).standard_normal((6, 30)).astype(np.float32)
    result = parity(scores, scores, np.arange(30) // 5)
    assert (result.max_abs, result.mean_abs, result.top10_overlap, result.rank_flips, result.delta_rsum) == (
        0,
        0,
        100,
        0,
        0,
    )


def test_parity_counts_differences_flips_and_lost_captions():
    reference = np.tile(np.arange(20.0), (2, 1))  # the best ten of both images are 10..19
    reference[1] -= 0.5
    scores = reference.copy()
    scores[0, 0] = 30.0  # now image 0's best, and 10 falls out of its ten
    result = parity(scores, reference, np.arange(20) % 2)
    assert result.max_abs == 30
    assert result.mean_abs == pytest.approx(30 / 40)
    assert result.top10_overlap == pytest.approx(95)
    assert result.rank_flips == 1
    assert result.delta_rsum == pytest.approx(
        retrieval_metrics(scores, np.arange(20) % 2).rsum - retrieval_metrics(reference, np.arange(20) % 2).rsum
    )


def test_parity_has_the_sign_of_what_was_lost():
    good, bad = np.eye(4), np.zeros((4, 4))
    assert parity(bad, good, np.arange(4)).delta_rsum < 0 < parity(good, bad, np.arange(4)).delta_rsum


def test_parity_of_different_shapes_is_refused():
    with pytest.raises(DataError, match="different shapes"):
        parity(np.zeros((2, 4)), np.zeros((4, 2)), np.arange(4) // 2)


def noisy_pair(change: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, reference, truth) of 60 images × 300 captions; `change` is how far the scores are from the reference."""
    generator = np.random.default_rng(5)
    truth = np.arange(300) // 5
    reference = 0.5 * generator.standard_normal((60, 300)) + (np.arange(60)[:, None] == truth)
    return reference + change * generator.standard_normal(reference.shape), reference, truth


def test_the_interval_of_delta_rsum_holds_it_and_is_nothing_for_equal_scores():
    for change in (0.05, 0.3):
        result = parity(*noisy_pair(change))
        low, high = result.delta_rsum_interval
        assert low < result.delta_rsum < high
    scores, _, truth = noisy_pair(0)
    assert parity(scores, scores, truth).delta_rsum_interval == (0, 0)


def test_the_interval_is_as_wide_as_resampling_the_queries_says():
    scores, reference, truth = noisy_pair(0.3)
    low, high = parity(scores, reference, truth).delta_rsum_interval
    generator = np.random.default_rng(1)
    deltas = []
    relevant = np.arange(60)[:, None] == truth
    for _ in range(400):
        rows, columns = generator.integers(0, 60, 60), generator.integers(0, 300, 300)
        rsums = []
        for matrix in (scores, reference):
            images = np.mean([_hits_of(matrix[i], relevant[i]) for i in rows], axis=0).sum()
            captions = np.mean([_hits_of(matrix[:, c], relevant[:, c]) for c in columns], axis=0).sum()
            rsums.append(100 * (images + captions))
        deltas.append(rsums[0] - rsums[1])
    expected = np.percentile(deltas, (2.5, 97.5))
    assert np.allclose((low, high), expected, atol=0.15 * (high - low))


def _hits_of(scores: np.ndarray, relevant: np.ndarray) -> list[bool]:
    rank = 1 + int(((scores >= scores[relevant].max()) & ~relevant).sum())
    return [rank <= k for k in (1, 5, 10)]


def test_delta_rsum_is_the_difference_of_both_rsums():
    scores, reference, truth = noisy_pair(0.3)
    rsums = [retrieval_metrics(matrix, truth).rsum for matrix in (scores, reference)]
    assert parity(scores, reference, truth).delta_rsum == pytest.approx(rsums[0] - rsums[1], abs=1e-9)
