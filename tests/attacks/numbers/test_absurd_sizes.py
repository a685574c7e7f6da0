"""Absurd sizes for the compiled scorer: refused, never a crash of the process."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

caan_native = pytest.importorskip("caan_native", reason="needs the package caan_native; make native builds it")

D, d = 10, 7


def scorer(embed_dim=D, attention_dim=d, scale=4.0, weights=d, threads=1):
    w = np.ones(weights, np.float32)
    return caan_native.Scorer(embed_dim, attention_dim, scale, w, w, "fp32", threads)


def score(made, image_columns=2 * D + 3 * d, text_columns=D + 3 * d, rows=4):
    images, texts = np.ones((rows, image_columns), np.float32), np.ones((rows, text_columns), np.float32)
    starts, lengths, scores = np.zeros(1, np.int64), np.full(1, rows), np.zeros((1, 1), np.float32)
    made.score(images, starts, lengths, texts, starts, lengths, scores)
    return scores


@pytest.mark.parametrize("size", [2**64 - 1, 2**63, 2**63 - 1, 2**62, 2**61, 2**48, 2**32, 2**31, 2**20 + 1])
def test_dimensions_beyond_any_model(size):
    with pytest.raises(ValueError, match="a dimension is larger than 1,048,576"):
        scorer(embed_dim=size)
    with pytest.raises(ValueError, match="attention_dim is"):
        scorer(attention_dim=size)


@pytest.mark.parametrize("size", [-1, -(2**63), 2**64, 2**70, 1.0, None, "10", float("nan")])
def test_values_that_are_not_sizes(size):
    for name in ("embed_dim", "attention_dim", "threads"):
        with pytest.raises(TypeError):
            scorer(**{name: size})


def test_none_and_too_many_threads():
    for threads, says in (
        (0, "no threads"),
        (4097, "more than 4,096"),
        (2**40, "more than 4,096"),
        (2**64 - 1, "more"),
    ):
        with pytest.raises(ValueError, match=says):
            scorer(threads=threads)
        with pytest.raises(ValueError, match="threads must be 1 to 4,096"):
            caan_native.measure_limits(threads)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf"), 1e39])
def test_a_scale_that_is_not_finite(scale):
    with pytest.raises((ValueError, TypeError)):
        scorer(scale=scale)


def test_the_largest_dimension_meets_states_that_are_not_as_wide():
    with pytest.raises(ValueError, match="columns"):
        score(scorer(embed_dim=2**20))


@pytest.mark.parametrize("shift", [1, -1])
def test_states_of_another_width(shift):
    with pytest.raises(ValueError, match="image_states have"):
        score(scorer(), image_columns=2 * D + 3 * d + shift)
    with pytest.raises(ValueError, match="text_states have"):
        score(scorer(), text_columns=D + 3 * d + shift)


def test_a_former_crash_in_its_own_process():
    """2D + 3d wraps around to a small number of columns."""
    code = (
        "import numpy as np, caan_native; w = np.ones(7, np.float32)\n"
        "try: made = caan_native.Scorer(2**64 - 1, 7, 4.0, w, w, 'fp32', 1)\n"
        "except ValueError: raise SystemExit(0)\n"
        "one, zero = np.ones(1, np.int64), np.zeros(1, np.int64)\n"
        "states = [np.ones((1, width), np.float32) for width in (19, 20)]\n"
        "made.score(states[0], zero, one, states[1], zero, one, np.zeros((1, 1), np.float32))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


anything = st.integers(-(2**65), 2**65) | st.sampled_from([0, 1, D, d, 2**63, 2**64 - 1])


@given(embed_dim=anything, attention_dim=anything, weights=st.integers(0, 40), threads=st.integers(-1, 2))
def test_any_sizes_are_refused_or_score(embed_dim, attention_dim, weights, threads):
    try:
        made = scorer(embed_dim, attention_dim, 4.0, weights, threads)
        score(made)
    except (ValueError, TypeError) as error:
        assert str(error)
