"""The arithmetic of sketches: compiled or in NumPy, the same ranking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.runtime.sketches import kernels


@pytest.fixture(params=["compiled", "numpy"])
def scanner(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(kernels, "_compiled", lambda: None)
    elif kernels._compiled() is None:
        pytest.skip("needs caan-native: make native")
    return kernels.Scanner(2)


@settings(max_examples=60)
@given(data=st.data())
def test_the_best_are_those_of_a_stable_sort(data, scanner):
    items, columns, queries = (
        data.draw(st.integers(1, 400)),
        16 * data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 4)),
    )
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    most = data.draw(st.sampled_from([1, 3, 127]))  # few values: many ties
    sketches = random.integers(-most, most + 1, (items, columns), np.int8)
    numbers = random.integers(-most, most + 1, (queries, columns), np.int16) * (32767 // most)
    skip = random.random(items) < data.draw(st.sampled_from([0, 0.3, 1])) if data.draw(st.booleans()) else None
    n = data.draw(st.integers(1, items + 3))
    indices, sums = scanner.best(sketches, numbers, n, skip)
    left = np.arange(items) if skip is None else np.flatnonzero(~skip)
    for query, found, values in zip(numbers.astype(np.int64), indices, sums, strict=True):
        exact = sketches[left].astype(np.int64) @ query
        order = np.argsort(-exact, kind="stable")[:n]
        assert np.array_equal(found, left[order])
        assert np.array_equal(values, exact[order])


def test_projections_differ_by_rounding_alone(monkeypatch):
    random = np.random.default_rng(0)
    pooled = random.standard_normal((7, 300)).astype(np.float32)
    matrix = random.standard_normal((300, 48)).astype(np.float32)
    first = kernels.project(pooled, matrix)
    monkeypatch.setattr(kernels, "_compiled", lambda: None)
    assert np.abs(kernels.project(pooled, matrix) - first).max() < 1e-4
    assert np.array_equal(kernels.project(pooled[2:3], matrix)[0], kernels.project(pooled, matrix)[2])


def test_quantization_rounds_halves_to_even_and_saturates():
    numbers = np.array([[0.5, 1.5, -2.5, 126.6, 900, -900]], np.float32)
    assert kernels.quantize(numbers, np.ones(6, np.float32)).tolist() == [[0, 2, -2, 127, 127, -127]]


def test_query_numbers_keep_the_ratios_and_fill_16_bits():
    numbers = np.array([[1.0, -0.5, 0.25], [0, 0, 0]], np.float32)
    result = kernels.query_numbers(numbers, np.array([1, 2, 4], np.float32))
    assert result.dtype == np.int16
    assert result.tolist() == [[32767, -32767, 32767], [0, 0, 0]]
