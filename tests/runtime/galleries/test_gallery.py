"""Parts of a gallery: its first items, and gathered states."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.runtime import Gallery
from caan.runtime.galleries.in_memory import offsets_of

LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=12)


def make_gallery(lengths, deleted=None, **changes):
    """A gallery whose states all differ, ids included."""
    offsets = offsets_of(np.array(lengths, np.int64))
    states = np.arange(3 * offsets[-1], dtype=np.float32).reshape(-1, 3)
    ids = [f"{n}.jpg" for n in range(len(lengths))]
    mask = None if deleted is None else np.array(deleted, np.bool_)
    return replace(Gallery("image", "maker", states, offsets, ids, deleted=mask), **changes)


@given(st.data(), LENGTHS, st.integers(1, 15))
def test_the_first_items_are_those_that_are_not_deleted(data, lengths, number):
    deleted = data.draw(st.none() | st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    gallery = make_gallery(lengths, deleted)
    first = gallery.first(number)
    assert first.live.tolist() == gallery.live[:number].tolist()
    assert len(first) == len(first.ids) == (first.live[-1] + 1 if len(first.live) else 0)
    assert first.ids == gallery.ids[: len(first)]
    for item in first.live:
        np.testing.assert_array_equal(first.gather(np.array([item]))[0], gallery.gather(np.array([item]))[0])


def test_the_first_items_are_a_view_and_checked_as_before():
    checked = []
    gallery = make_gallery([2, 2, 3], compact=True, check=lambda start, end: checked.append((start, end)), ids=None)
    first = gallery.first(2)
    assert np.shares_memory(first.states, gallery.states) and len(first.states) == 4 and checked == []
    first.gather(np.array([1]))
    assert checked == [(2, 4)]
    assert first.compact and first.ids is None and (first.kind, first.encoder) == ("image", "maker")


@given(st.data(), LENGTHS)
def test_gathered_states_are_padded_with_zeros(data, lengths):
    gallery = make_gallery(lengths)
    items = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8)))
    states, actual = gallery.gather(items)
    assert actual.tolist() == [lengths[item] for item in items]
    assert states.shape == (len(items), max(actual), 3)
    for row, item, length in zip(states, items, actual, strict=True):
        start = gallery.offsets[item]
        np.testing.assert_array_equal(row[:length], gallery.states[start : start + length])
        assert not row[length:].any()


@pytest.mark.parametrize(
    ("items", "is_view"), [([1, 2, 3], True), ([2], True), ([3, 2], False), ([1, 3], False), ([0, 1], False)]
)
def test_equally_long_neighbours_are_not_copied(items, is_view):
    """Even if lengths differ elsewhere in the gallery."""
    gallery = make_gallery([1, 2, 2, 2, 4])
    states, _ = gallery.gather(np.array(items))
    assert np.shares_memory(states, gallery.states) == is_view
