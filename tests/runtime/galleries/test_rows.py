"""How rows are stored: bytes, rounding, and the numbers that come back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from caan.runtime.galleries.rows import SMALL_DTYPES, array_type, columns_of, decoded, dtype_of, encoded

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def states(draw):
    """(states (rows, S), columns of each matrix)"""
    widths = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    return draw(arrays.arrays(np.float32, (draw(st.integers(0, 3)), sum(widths)), elements=numbers)), widths


@given(states())
def test_int8_is_within_half_a_scale_and_zeros_stay_zeros(world):
    numbers, widths = world
    rows = encoded(numbers, "int8", widths)
    found = decoded(rows, widths)
    for start, width in zip(np.cumsum([0, *widths]), widths, strict=False):
        part = numbers[:, start : start + width].astype(np.float64)
        largest = np.abs(part).max(axis=1, keepdims=True)
        # Scale and product are rounded to float32, below 1e-38 to multiples of 1.4e-45.
        assert (np.abs(found[:, start : start + width] - part) <= largest * (1 / 254 + 1e-6) + 1e-42).all()
        assert (found[:, start : start + width][np.broadcast_to(largest == 0, part.shape)] == 0).all()
    assert np.isfinite(found).all()


@given(states())
def test_bfloat16_rounds_as_pytorch_does(world):
    numbers, widths = world
    expected = torch.from_numpy(numbers).bfloat16().float().numpy()
    expected = np.clip(expected, -3.3895314e38, 3.3895314e38)  # PyTorch's largest round to infinity
    assert np.array_equal(decoded(encoded(numbers, "bfloat16", widths), widths), expected)


def test_the_bytes_of_int8():
    # In steps of 1 and 0.5: half to even, the largest to ±127, a row of zeros.
    rows = encoded(np.array([[127, 0.5, 1.5, -63.5, 0, 0.25], [0, 0, 0, 0, 0, 0]], np.float32), "int8", (3, 3))
    assert rows.dtype == np.uint8 and rows.shape == (2, 14)
    assert rows[0].tobytes() == np.array([1, 0.5], "<f4").tobytes() + bytes([127, 0, 2, 129, 0, 0])
    assert rows[1].tobytes() == bytes(14)


def test_the_bytes_of_bfloat16():
    rows = encoded(np.array([[1.0, -2.0, 1 + 2**-8, 1 + 3 * 2**-8]], np.float32), "bfloat16", (4,))
    assert rows.tolist() == [[0x3F80, 0xC000, 0x3F80, 0x3F82]]


@pytest.mark.parametrize("dtype", SMALL_DTYPES)
def test_many_rows_are_as_each_alone(dtype):
    numbers, widths = np.random.default_rng(0).standard_normal((200, 12)).astype(np.float32), (5, 7)
    rows = encoded(numbers, dtype, widths)
    assert np.array_equal(rows[150:151], encoded(numbers[150:151], dtype, widths))
    padded = rows.reshape(4, 50, -1)
    assert np.array_equal(decoded(padded, widths).reshape(200, 12), decoded(rows, widths))
    assert (dtype_of(rows), columns_of(rows, len(widths))) == (dtype, 12)
    assert (rows.dtype, rows.shape[1]) == array_type(dtype, 12, 2)
