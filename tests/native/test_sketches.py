"""Projection, rounding and the scan of sketches, against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .test_scores import read_only, unaligned


def best_of(sketches, queries, n, skip=None):
    """What a stable sort finds: indices and sums (queries, n)."""
    sums = sketches.astype(np.int32) @ queries.T.astype(np.int32)  # (items, queries)
    left = np.flatnonzero(~np.asarray(skip, bool)) if skip is not None else np.arange(len(sketches))
    order = np.argsort(-sums[left].astype(np.int64), axis=0, kind="stable")[:n]
    return left[order].T, np.take_along_axis(sums[left], order, 0).T


def check(module, sketches, queries, n, skip=None, threads=1):
    found = module.Scanner(threads).best(sketches, queries, n, skip)
    for array, expected in zip(found, best_of(sketches, queries, n, skip), strict=True):
        assert np.array_equal(array, expected)


@given(
    seed=st.integers(0, 1000),
    items=st.integers(0, 3000) | st.integers(0, 40),
    columns=st.sampled_from([16, 32, 48, 64, 80, 112, 512]),
    queries=st.integers(0, 5),
    n=st.integers(0, 400) | st.integers(0, 5000),
    largest=st.sampled_from([1, 3, 127]),  # small numbers: many equal sums
    deleted=st.sampled_from([None, 0.0, 0.3, 0.99, 1.0]),
    threads=st.integers(1, 3),
)
def test_the_best_are_those_of_a_stable_sort(caan_native, seed, items, columns, queries, n, largest, deleted, threads):
    random = np.random.default_rng(seed)
    sketches = random.integers(-largest, largest + 1, (items, columns), np.int8)
    asked = random.integers(-min(largest, 3), min(largest, 3) + 1, (queries, columns), np.int16)
    skip = None if deleted is None else random.random(items) < deleted
    check(caan_native, sketches, asked, n, skip, threads)


@pytest.mark.parametrize("columns", [16, 64, 512])
def test_the_largest_sums_are_exact(caan_native, columns):
    sketches = np.full((9, columns), -128, np.int8)
    sketches[4:] = 127
    queries = np.full((2, columns), 32767, np.int16)
    queries[1] = -32767
    check(caan_native, sketches, queries, 9)


@pytest.mark.parametrize("rising", [True, False])
def test_sums_in_order(caan_native, rising):
    sketches = np.zeros((20_000, 16), np.int8)
    sketches[:, :2] = np.stack(np.divmod(np.arange(20_000), 100), 1) - 100
    queries = np.zeros((1, 16), np.int16)
    queries[0, :2] = [100, 1] if rising else [-100, -1]
    check(caan_native, sketches, queries, 700, threads=2)


@pytest.mark.parametrize("made", [unaligned, read_only])
def test_inputs_may_be_unaligned_or_read_only(caan_native, made):
    random = np.random.default_rng(0)
    sketches = random.integers(-127, 128, (501, 48), np.int8)
    queries = random.integers(-32767, 32768, (3, 48), np.int16)
    skip = random.random(501) < 0.2
    moved = np.frombuffer(b"x" + sketches.tobytes(), np.int8)[1:].reshape(sketches.shape)
    check(caan_native, moved, made(queries), 10, read_only(skip))


def test_skip_may_be_any_bytes(caan_native):
    sketches, queries = np.ones((5, 16), np.int8), np.ones((1, 16), np.int16)
    indices, _ = caan_native.Scanner(1).best(sketches, queries, 5, np.array([0, 2, 0, 255, 0], np.uint8))
    assert indices.tolist() == [[0, 2, 4]]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"sketches": np.zeros((4, 24), np.int8)}, ValueError, "queries have 16 columns, and sketches have 24"),
        ({"sketches": np.zeros((4, 16), np.uint8)}, TypeError, "sketches must be int8, not uint8"),
        (
            {"sketches": np.zeros(16, np.int8)},
            ValueError,
            r"sketches must have the shape \(items, columns\), not \(16,\)",
        ),
        ({"sketches": np.zeros((4, 32), np.int8)[:, ::2]}, TypeError, "sketches must be C-contiguous"),
        ({"queries": np.zeros((2, 16), np.int8)}, TypeError, "queries must be int16, not int8"),
        ({"queries": np.full((2, 16), -32768, np.int16)}, ValueError, "queries must be -32,767 to 32,767"),
        ({"skip": np.zeros(3, bool)}, ValueError, "skip has 3 numbers, and there are 4 sketches"),
        ({"skip": np.zeros(4)}, TypeError, "skip must be bool or uint8, not float64"),
        ({"n": -1}, TypeError, "incompatible function arguments"),
    ],
)
def test_arguments_that_do_not_fit(caan_native, changed, error, message):
    arguments = {"sketches": np.zeros((4, 16), np.int8), "queries": np.zeros((2, 16), np.int16), "n": 2} | changed
    with pytest.raises(error, match=message):
        caan_native.Scanner(1).best(**arguments)


@pytest.mark.parametrize("columns", [8, 24, 0, 528])
def test_columns_that_no_sketch_has(caan_native, columns):
    with pytest.raises(ValueError, match=r"sketches have 16, 32, 48, \.\.\. or 512 columns"):
        caan_native.Scanner(1).best(np.zeros((4, columns), np.int8), np.zeros((1, columns), np.int16), 1)


def test_scanners_need_threads(caan_native):
    with pytest.raises(ValueError, match="no threads"):
        caan_native.Scanner(0)


@given(
    seed=st.integers(0, 1000),
    items=st.integers(0, 9),
    dim=st.integers(0, 300),
    columns=st.sampled_from([16, 48, 64, 512]),
)
def test_projections_are_those_of_numpy_and_of_a_row_alone(caan_native, seed, items, dim, columns):
    random = np.random.default_rng(seed)
    pooled = random.normal(0, 1, (items, dim)).astype(np.float32)
    matrix = random.normal(0, 1, (dim, columns)).astype(np.float32)
    found = caan_native.project(pooled, matrix)
    bound = 1e-6 * (1 + dim) * (np.abs(pooled) @ np.abs(matrix)) + 1e-30
    assert found.shape == (items, columns)
    assert (np.abs(found - pooled.astype(float) @ matrix) <= bound).all()
    for i in range(items):
        assert np.array_equal(caan_native.project(pooled[i : i + 1], matrix)[0], found[i])


@given(seed=st.integers(0, 1000), items=st.integers(0, 9), columns=st.integers(1, 70))
def test_numbers_are_rounded_as_numpy_does(caan_native, seed, items, columns):
    random = np.random.default_rng(seed)
    steps = (2.0 ** random.integers(-3, 4, columns)).astype(np.float32)
    # Halves, among them even and odd ones, and numbers beyond the range.
    projected = (random.integers(-300, 301, (items, columns)) / 2 * steps).astype(np.float32)
    expected = np.clip(np.rint(projected / steps), -127, 127).astype(np.int8)
    assert np.array_equal(caan_native.quantize(projected, steps), expected)


def test_infinity_is_limited_and_nan_refused(caan_native):
    numbers, steps = np.array([[np.inf, -np.inf], [0.5, 1.5]], np.float32), np.ones(2, np.float32)
    assert caan_native.quantize(numbers, steps).tolist() == [[127, -127], [0, 2]]
    numbers[1, 1] = np.nan
    with pytest.raises(ValueError, match="projected has NaN in row 1"):
        caan_native.quantize(numbers, steps)


@pytest.mark.parametrize("step", [0.0, -1.0, np.nan, np.inf])
def test_steps_that_are_none(caan_native, step):
    with pytest.raises(ValueError, match="steps must be finite and above 0"):
        caan_native.quantize(np.ones((1, 1), np.float32), np.array([step], np.float32))


def test_matrices_that_do_not_fit(caan_native):
    with pytest.raises(ValueError, match="pooled has 3 columns, and matrix has 4 rows"):
        caan_native.project(np.ones((2, 3), np.float32), np.ones((4, 16), np.float32))
    with pytest.raises(ValueError, match="projected has 16 columns, and steps has 8 numbers"):
        caan_native.quantize(np.ones((2, 16), np.float32), np.ones(8, np.float32))
    with pytest.raises(TypeError, match="pooled must be float32, not float64"):
        caan_native.project(np.ones((2, 3)), np.ones((3, 16), np.float32))
