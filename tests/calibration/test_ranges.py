"""The range methods: properties of all of them, and of each."""

import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.calibration.ranges import METHODS, MIN_RANGE, find_ranges
from caan.errors import DataError, InputError

BINS = 1 << 15


def range_of(values, method) -> float:
    """The range of one tensor in one batch."""
    return find_ranges(lambda: [{"x": np.asarray(values, np.float32)}], method)["x"]


def quantized(values, reach):
    """Symmetric INT8: rounded to 255 levels, clipped to ±reach."""
    scale = reach / 127
    return np.clip(np.rint(values / scale), -127, 127) * scale


def squared_error(values, reach) -> float:
    return float(((values - quantized(values, reach)) ** 2).sum())


@st.composite
def tensors(draw):
    """Typical activations: bell-shaped, one-sided with zeros, saturated at 1, or with a long tail."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 3000))
    normal = generator.standard_normal(count)
    kind = draw(st.sampled_from(["normal", "relu", "tanh", "tail"]))
    shape = {"normal": lambda x: x, "relu": lambda x: np.maximum(x, 0), "tanh": lambda x: np.tanh(3 * x)}
    values = shape[kind](normal) if kind in shape else normal * generator.lognormal(0, 1, count)
    return (values * 10 ** draw(st.floats(-1, 3))).astype(np.float32)


@settings(max_examples=40)
@given(tensors(), st.sampled_from(METHODS))
def test_a_range_is_positive_and_not_above_the_maximum(values, method):
    result, maximum = range_of(values, method), float(np.abs(values).max())
    assert MIN_RANGE <= result <= max(maximum, MIN_RANGE)
    if method == "min-max":
        assert result == max(maximum, MIN_RANGE)


@settings(max_examples=40)
@given(tensors(), st.integers(1, 12), st.sampled_from(METHODS))
def test_ranges_scale_with_the_values(values, exponent, method):
    # By powers of two, which float32 multiplies exactly; any other factor may move a value to the next bin.
    result = range_of(values, method)
    if result > MIN_RANGE:
        assert range_of(values * np.float32(2**exponent), method) == result * 2**exponent


@settings(max_examples=40)
@given(tensors(), st.integers(1, 7), st.randoms(), st.sampled_from(METHODS))
def test_order_and_batching_do_not_matter(values, pieces, random, method):
    order = list(range(len(values)))
    random.shuffle(order)
    shuffled = np.array_split(values[order], pieces)
    batches = [{"x": piece.reshape(1, -1, 1), "y": -piece} for piece in shuffled if len(piece)]
    expected = range_of(values, method)
    assert find_ranges(lambda: batches, method) == {"x": expected, "y": expected}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [np.zeros(9), np.full(9, 1e-30), np.full(9, 1e-45), [0.004, -0.001]])
def test_a_tensor_of_nearly_nothing_gets_a_scale_that_float16_holds(method, values):
    scale = np.float16(range_of(values, method) / 127)
    assert scale >= np.finfo(np.float16).smallest_normal
    assert np.isfinite(np.float16(1) / scale)
    assert scale < 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_what_is_clipped_leaves_a_scale_that_float16_holds(method):
    values = np.random.default_rng(0).normal(0, 1e-4, 200_000)
    values[0] = 1.5 * MIN_RANGE
    assert MIN_RANGE <= range_of(values, method) <= 1.5 * MIN_RANGE * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_tensors_do_not_touch_each_other(method):
    generator = np.random.default_rng(0)
    small, large = generator.standard_normal(500), 100 * generator.standard_t(2, 500)
    batches = [{"zero": np.zeros(3, np.float32), "small": small.astype("f4")}, {"large": large.astype("f4")}]
    result = find_ranges(lambda: batches, method)
    assert result == {"zero": MIN_RANGE, "small": range_of(small, method), "large": range_of(large, method)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_the_tensor_s_name(method, value):
    batches = [{"fine": np.ones(3, np.float32), "scorer/H": np.array([1, value, 2], np.float32)}]
    with pytest.raises(DataError, match="'scorer/H' holds NaN or infinity"):
        find_ranges(lambda: batches, method)


def test_an_unknown_method_is_refused_with_those_there_are():
    with pytest.raises(InputError, match="'maximum'; known: min-max, entropy, percentile, mse"):
        find_ranges(list, "maximum")


@pytest.mark.parametrize("method", METHODS)
def test_no_batch_is_kept(method):
    alive = []

    def batches():
        alive.clear()
        for _ in range(4):
            values = np.random.default_rng(0).standard_normal(100).astype(np.float32)
            alive.append(weakref.ref(values))
            yield {"x": values}
            del values
            # the consumer's own variable may still hold the latest
            assert sum(reference() is not None for reference in alive) <= 1

    find_ranges(batches, method)


SHAPES = {
    "normal": lambda generator, n: generator.standard_normal(n),
    "laplace": lambda generator, n: generator.laplace(size=n),
    "tail": lambda generator, n: generator.standard_t(3, n),
    "outlier": lambda generator, n: np.append(generator.standard_normal(6 * n), 20.0),
    "relu": lambda generator, n: np.maximum(generator.standard_normal(n), 0),
    "saturated": lambda generator, n: np.tanh(3 * generator.standard_normal(n)),
    "constant": lambda generator, n: np.full(n, 0.3),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_mse_finds_about_the_least_error_there_is(shape, seed):
    values = SHAPES[shape](np.random.default_rng(seed), 50_000).astype(np.float32)
    maximum = np.abs(values).max()
    least = min(squared_error(values, maximum * part) for part in np.linspace(0.02, 1, 250))
    assert squared_error(values, range_of(values, "mse")) <= 1.02 * least + 1e-9


@pytest.mark.parametrize("shape", ["tail", "outlier"])
def test_mse_beats_min_max_where_there_are_outliers(shape):
    values = SHAPES[shape](np.random.default_rng(5), 50_000).astype(np.float32)
    best, largest = (squared_error(values, range_of(values, method)) for method in ("mse", "min-max"))
    assert best < 0.8 * largest


@settings(max_examples=20)
@given(tensors())
def test_percentile_clips_one_value_in_ten_thousand(values):
    values = np.concatenate([values, np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)])
    result, magnitudes = range_of(values, "percentile"), np.sort(np.abs(values))
    clipped = (magnitudes > result * (1 + 1e-6)).mean()
    assert clipped <= 1e-4
    # … and one bin less would be too few
    assert (magnitudes > result - 1.01 * magnitudes[-1] / BINS).mean() > 1e-4 or result == MIN_RANGE


def test_entropy_cuts_a_lone_outlier_off_a_bell():
    values = np.random.default_rng(0).standard_normal(100_000)
    values[0] = 50
    assert 3 < range_of(values, "entropy") < 7


def test_zeros_do_not_move_the_range_of_entropy():
    values = np.abs(np.random.default_rng(0).standard_normal(20_000))
    assert range_of(np.concatenate([values, np.zeros(500_000)]), "entropy") == range_of(values, "entropy")


def reference_entropy(values) -> float:
    """Migacz's slides, step by step, on 2,048 bins."""
    counts, edges = np.histogram(np.abs(values), 2048, (0, np.abs(values).max()))
    counts[0] = counts[1]
    divergences = []
    for kept in range(128, 2049):
        p = counts[:kept].astype(float)
        p[-1] += counts[kept:].sum()
        q = np.zeros(kept)
        for level in range(128):
            bins = [n for n in range(level * kept // 128, (level + 1) * kept // 128) if counts[n]]
            for n in bins:
                q[n] = counts[bins].sum() / len(bins)
        p, q = p / p.sum(), q / q.sum()
        terms = [a * np.log(a / b) if b else np.inf for a, b in zip(p, q, strict=True) if a]
        divergences.append(sum(terms))
    return float(edges[128 + int(np.argmin(divergences))])


@pytest.mark.parametrize("seed", range(2))
def test_entropy_is_tensorrt_s(seed):
    # Multiples of 1/4096 up to 1/2 + 1: no value lies so near to an edge that two histograms may differ
    generator = np.random.default_rng(seed)
    values = np.round(generator.laplace(0, 60, 3000)) / 64
    assert range_of(values, "entropy") == pytest.approx(reference_entropy(values.astype(np.float32)), rel=1e-6)
