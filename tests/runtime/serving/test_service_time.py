"""Estimates of batch times from earlier batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.runtime.serving.service_time import ServiceTime


def learnt(batches):
    times = ServiceTime()
    for pairs, seconds in batches:
        times.observe(pairs, seconds)
    return times


def test_nothing_is_expected_before_the_first_batch():
    assert ServiceTime().bound(100) is None


def test_after_batches_of_one_size_a_larger_one_is_expected_to_take_proportionally_longer():
    times = learnt([(10, 0.2)] * 50)
    assert times.bound(10) == pytest.approx(0.2, rel=0.01)
    assert times.bound(320) == pytest.approx(6.4, rel=0.01)


def test_the_cost_per_batch_is_separated_from_the_cost_per_pair():
    times = learnt([(size, 0.5 + 0.01 * size) for size in [1, 32, 8, 16] * 20])
    assert times.bound(4) == pytest.approx(0.54, rel=0.01)
    assert times.bound(64) == pytest.approx(1.14, rel=0.01)


def test_a_machine_that_became_slower_is_noticed_within_a_few_batches():
    times = learnt([(10, 0.1)] * 100 + [(10, 1.0)] * 10)
    assert times.bound(10) > 0.8


@given(st.integers(0, 2**32))
def test_the_bound_holds_for_most_batches_of_a_noisy_machine(seed):
    generator = np.random.default_rng(seed)
    times, kept = ServiceTime(), []
    for _ in range(100):
        pairs = int(generator.integers(1, 33))
        seconds = (0.05 + 0.01 * pairs) * generator.lognormal(0, 0.3)
        bound = times.bound(pairs)
        if bound is not None:
            kept.append(seconds <= bound)
        times.observe(pairs, seconds)
    assert np.mean(kept) > 0.75


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(0, 1e6)), min_size=1, max_size=30), st.integers(1, 10**9))
def test_a_bound_is_a_number_of_seconds_whatever_was_measured(batches, pairs):
    assert 0 <= learnt(batches).bound(pairs) < float("inf")
