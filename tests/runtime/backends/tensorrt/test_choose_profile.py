"""The choice of a profile, and limits on tiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.errors import InputError
from caan.runtime.backends.tensorrt.choose_profile import (
    Profile,
    Range,
    batch_limit,
    choose_profile,
    item_limits,
    sizes_of,
    tile_limits,
)
from caan.tiling import TileSize, fit_tile, tile_size


def scorer(name, images, captions, regions=(1, 36, 36), words=(1, 16, 16)):
    ranges = {"images": images, "regions": regions, "captions": captions, "words": words}
    return profile(name, **ranges)


def profile(name, **ranges):
    return Profile(name, {axis: Range(*limits) for axis, limits in ranges.items()}, shapes={})


SEARCH = scorer("search", (1, 256, 1000), (1, 1, 1))
MATRIX = scorer("matrix", (1, 32, 64), (1, 32, 64))
LONG = scorer("matrix-32", (1, 24, 48), (1, 24, 48), words=(1, 32, 32))
ALL = [SEARCH, MATRIX, LONG]


def sizes(images, captions, regions=36, words=12):
    return {"images": images, "regions": regions, "captions": captions, "words": words}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (sizes(800, 1), SEARCH),
        (sizes(40, 40), MATRIX),
        (sizes(30, 30, words=20), LONG),
        (sizes(2, 2), MATRIX),
        (sizes(1, 1), SEARCH),
    ],
)
def test_a_call_runs_in_the_profile_tuned_for_the_nearest_sizes(call, expected):
    assert choose_profile("scorer", ALL, call) == (ALL.index(expected), call)


def test_a_call_that_is_too_small_is_padded():
    fixed = scorer("fixed", (4, 8, 8), (2, 2, 2), regions=(36, 36, 36), words=(8, 16, 16))
    _, run_at = choose_profile("scorer", [fixed], sizes(3, 1, regions=10, words=9))
    assert run_at == {"images": 4, "regions": 36, "captions": 2, "words": 9}


def test_a_call_that_is_too_large_is_refused_with_every_profile():
    with pytest.raises(InputError) as refusal:
        choose_profile("scorer", [SEARCH, MATRIX], sizes(65, 2, words=17))
    message = str(refusal.value)
    assert "the engine's scorer does not take 65 images × 36 regions × 2 captions × 17 words" in message
    assert "search: 1 to 1000 images × 1 to 36 regions × 1 captions × 1 to 16 words" in message
    assert "matrix: 1 to 64 images" in message
    assert "--profile" in message


def test_tensors_that_share_an_axis_take_what_all_of_them_take():
    shapes = {
        "image_states": [(2, 5, 41), (4, 5, 41), (9, 36, 41)],
        "image_lengths": [(1,), (4,), (8,)],
        "text_states": [(1, 1, 31), (1, 9, 31), (1, 16, 31)],
        "text_lengths": [(1,), (1,), (1,)],
    }
    mixed = Profile.of_shapes("scorer", "mixed", shapes)
    assert mixed.axes["images"] == (2, 4, 8)
    assert mixed.axes["regions"] == (5, 5, 36)


def test_sizes_come_from_the_inputs_shapes():
    shapes = {"image_states": (3, 5, 41), "image_lengths": (3,), "text_states": (2, 7, 31), "text_lengths": (2,)}
    assert sizes_of("scorer", shapes) == sizes(3, 2, regions=5, words=7)


def test_items_are_limited_by_every_graph():
    image = [profile("chunk", images=(1, 32, 32), regions=(1, 36, 40))]
    text = [
        profile("short", captions=(1, 128, 128), words=(1, 16, 16)),
        profile("long", captions=(1, 64, 64), words=(1, 30, 30)),
    ]
    profiles = {"image_encoder": image, "text_encoder": text, "scorer": ALL}
    assert item_limits(profiles) == {"regions": 36, "words": 30}
    assert batch_limit(text, "captions", "words", 16) == 128
    assert batch_limit(text, "captions", "words", 17) == 64
    assert batch_limit(text, "captions", "words", 31) == 1


def test_tiles_are_limited_by_the_profiles_that_take_their_items():
    assert tile_limits(ALL, 36, 16) == [TileSize(1000, 1), TileSize(64, 64), TileSize(48, 48)]
    assert tile_limits(ALL, 36, 17) == [TileSize(48, 48)]
    assert tile_limits(ALL, 37, 16) == []


ranges = st.tuples(st.integers(1, 40), st.integers(0, 40), st.integers(0, 40)).map(
    lambda n: (n[0], n[0] + n[1], n[0] + n[1] + n[2])
)
profiles = st.lists(st.tuples(ranges, ranges, ranges, ranges), min_size=1, max_size=4).map(
    lambda drawn: [scorer(str(number), *axes) for number, axes in enumerate(drawn)]
)


@given(profiles, st.integers(1, 200), st.integers(1, 200), st.integers(1, 1 << 24), st.data())
def test_a_tile_within_the_limits_always_has_a_profile(profiles, images, captions, budget, data):
    """The Retriever never makes a tile the engine refuses, for any profiles."""
    item = item_limits(
        {
            "scorer": profiles,
            "image_encoder": [profile("", images=(1, 1, 1), regions=(1, 1, 500))],
            "text_encoder": [profile("", captions=(1, 1, 1), words=(1, 1, 500))],
        }
    )
    regions, words = data.draw(st.integers(1, item["regions"])), data.draw(st.integers(1, item["words"]))
    limits = tile_limits(profiles, regions, words)
    assert limits != []
    tile = fit_tile(tile_size(regions, words, 32, budget), images, captions, limits)
    assert 1 <= tile.images <= images and 1 <= tile.captions <= captions
    shorter = data.draw(st.integers(1, regions)), data.draw(st.integers(1, words))
    _, run_at = choose_profile("scorer", profiles, sizes(tile.images, tile.captions, *shorter))
    assert run_at["images"] >= tile.images and run_at["words"] >= shorter[1]


def test_without_limits_memory_alone_bounds_a_tile():
    square = TileSize(8, 8)
    assert fit_tile(square, 1000, 1000, []) == TileSize(8, 8)
    assert fit_tile(square, 1000, 1, []) == TileSize(64, 1)


def test_of_several_limits_the_one_that_lets_most_pairs_in_is_taken():
    limits = [TileSize(1000, 1), TileSize(64, 64)]
    assert fit_tile(TileSize(40, 40), 500, 1, limits) == TileSize(500, 1)
    assert fit_tile(TileSize(40, 40), 500, 500, limits) == TileSize(40, 40)
    assert fit_tile(TileSize(100, 100), 500, 500, limits) == TileSize(64, 64)
