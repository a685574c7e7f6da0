"""JSON as declared classes: what does not fit is named by its path, keys of dictionaries included."""

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan._schema import MisfitError, typed


class Part(msgspec.Struct):
    numbers: dict[str, list[int]]


class Whole(msgspec.Struct):
    parts: dict[str, Part]
    count: int = 0
    kind: Literal["a", "b"] = "a"


def misfit(value):
    with pytest.raises(MisfitError) as caught:
        typed(value, Whole)
    return caught.value


def test_what_fits_is_typed_and_undeclared_entries_are_left_out():
    assert typed({"parts": {"a": {"numbers": {}, "more": 1}}, "new": 2}, Whole) == Whole({"a": Part({})})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (5, ""),
        ({}, "parts"),
        ({"parts": 5}, "parts"),
        ({"parts": {}, "count": "x"}, "count"),
        ({"parts": {"a": {}}}, "parts.a.numbers"),
        ({"parts": {"a": {"numbers": {}}, "b": None}}, "parts.b"),
        ({"parts": {"a": {"numbers": {"x": [1], "y": [2, "3"]}}}}, "parts.a.numbers.y[1]"),
        ({"parts": {"[...]": {"numbers": {"[...].x": [2, "3"]}}}}, "parts.[...].numbers.[...].x[1]"),
    ],
)
def test_a_misfit_is_named_by_its_path(value, path):
    found = misfit(value)
    assert found.path == path
    assert str(found) == (f"{path}: {found.reason}" if path else found.reason)


@pytest.mark.parametrize("kind", ["c", "c` - at `$.count`", "` - at `$.parts[...].x", "` - at `$.parts[...]`\n`"])
def test_a_value_that_reads_like_a_path_is_not_one(kind):
    assert misfit({"parts": {}, "kind": kind}).path == "kind"


@given(
    st.lists(st.text(), min_size=1, max_size=40, unique=True).flatmap(
        lambda keys: st.tuples(st.just(keys), st.sets(st.sampled_from(keys), min_size=1))
    )
)
def test_of_several_misfits_the_first_is_named(keys_and_bad):
    keys, bad = keys_and_bad
    parts = {key: {"numbers": {"x": ["1"] if key in bad else [1]}} for key in keys}
    first = next(key for key in keys if key in bad)
    assert misfit({"parts": parts}).path == f"parts.{first}.numbers.x[0]"
