"""Profiles: every runtime call fits one, none exceeds its memory budget, and invalid ones are rejected."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.bundle import GRAPHS
from caan.data.scan import open_split
from caan.errors import InputError
from caan.export.profiles import CHUNK, EXAMPLE, Range, Statistics, default_profiles, parse_profiles, profile_table
from caan.runtime.encoding import CAPTIONS_PER_CALL, IMAGES_PER_CALL
from caan.tiling import TileSize, fit_tile, tile_size

CONFIG = {"region_dim": 2048, "embed_dim": 1024, "attention_dim": 1024, "num_regions": 36}
LIMITS = {"regions": 512, "words": 128}
STATISTICS = Statistics(images=1000, captions=5000, regions=36, words=(13, 24))
SEARCH = "images=1/256/1000,captions=1,words=3/14/32,regions=36"

configs = st.fixed_dictionaries(
    {"region_dim": st.integers(1, 4096), "embed_dim": st.integers(1, 1024), "attention_dim": st.integers(1, 1024)}
)
limits = st.fixed_dictionaries({"regions": st.integers(1, 512), "words": st.integers(3, 128)})
statistics = st.builds(
    Statistics,
    images=st.integers(1, 10**6),
    captions=st.integers(1, 10**6),
    regions=st.integers(1, 600),
    words=st.tuples(st.integers(3, 200), st.integers(3, 200)),
)
budgets = st.integers(1 << 16, 1 << 33)


def fits(profile, **sizes):
    return all(size.min <= sizes[axis] <= size.max for axis, size in profile.axes.items())


@given(configs, limits, statistics, budgets, st.data())
def test_every_call_within_the_limits_fits_a_profile(config, limits, statistics, budget, data):
    profiles = default_profiles(config, limits, statistics, budget)
    largest = max(p.axes["regions"].max for p in profiles["scorer"])
    assert largest == min(statistics.regions, limits["regions"])
    words, regions = data.draw(st.integers(1, limits["words"])), data.draw(st.integers(1, largest))

    # The runtime queries the engine's tiles, and cuts galleries into the tile with the most pairs and a remainder.
    allowed = [
        TileSize(p.axes["images"].max, p.axes["captions"].max)
        for p in profiles["scorer"]
        if p.axes["regions"].max >= regions and p.axes["words"].max >= words
    ]
    tile = tile_size(regions, words, config["attention_dim"], budget)
    tile = fit_tile(tile, data.draw(st.integers(1, 10**6)), data.draw(st.integers(1, 10**6)), allowed)
    images, captions = data.draw(st.integers(1, tile.images)), data.draw(st.integers(1, tile.captions))
    call = {"images": images, "captions": captions, "regions": regions, "words": words}
    assert any(fits(profile, **call) for profile in profiles["scorer"])

    chunk = {"images": data.draw(st.integers(1, 32)), "captions": data.draw(st.integers(1, 128))}
    for graph in ("image_encoder", "text_encoder"):
        assert any(fits(profile, **{**call, **chunk}) for profile in profiles[graph])


@given(configs, limits, statistics, budgets)
def test_ranges_are_ordered_and_within_the_limits(config, limits, statistics, budget):
    for profiles in default_profiles(config, limits, statistics, budget).values():
        assert len({profile.name for profile in profiles}) == len(profiles)
        for profile in profiles:
            for axis, size in profile.axes.items():
                assert 1 <= size.min <= size.opt <= size.max <= limits.get(axis, size.max)


@given(configs, limits, statistics, budgets)
def test_no_profile_reserves_more_than_the_budget(config, limits, statistics, budget):
    for profile in default_profiles(config, limits, statistics, budget)["scorer"]:
        images, captions, regions, words = (profile.axes[a].max for a in ("images", "captions", "regions", "words"))
        # The smallest tile is one pair; the largest is the square that fits.
        most = tile_size(regions, words, config["attention_dim"], budget)
        assert images * captions <= most.images * most.captions


def test_each_role_of_the_scorer_has_a_profile_per_bucket_of_words():
    profiles = default_profiles(CONFIG, LIMITS, STATISTICS)
    roles = {graph: [profile.name for profile in own] for graph, own in profiles.items()}
    assert roles["image_encoder"] == ["single", "chunk"]
    assert roles["text_encoder"] == ["single", "chunk"]
    assert [profile.axes["words"] for profile in profiles["text_encoder"]] == [Range(1, 16, 128)] * 2
    assert roles["scorer"] == [
        f"{role}-{words}" for words in (16, 24, 128) for role in ("search", "annotation", "matrix")
    ]


def test_a_search_and_an_annotation_take_as_many_pairs_as_a_tile():
    search, annotation, matrix = default_profiles(CONFIG, LIMITS, STATISTICS)["scorer"][:3]
    side = matrix.axes["images"].max
    assert side > 10 and matrix.axes["captions"].max == side
    assert search.axes["images"].max == annotation.axes["captions"].max == side**2
    assert search.axes["captions"] == annotation.axes["images"] == Range(1, 1, 1)


def test_longer_captions_get_smaller_tiles():
    own = default_profiles(CONFIG, LIMITS, STATISTICS)["scorer"]
    sides = [p.axes["images"].max for p in own if p.name.startswith("matrix")]
    assert sides[0] > sides[1] > sides[2]


@pytest.mark.parametrize(
    ("words", "limit", "buckets"),
    [
        ((13, 24), 128, [16, 24, 128]),
        ((16, 17), 128, [16, 24, 128]),
        ((9, 15), 128, [16, 128]),
        ((14, 30), 30, [16, 30]),
        ((60, 90), 32, [32]),
    ],
)
def test_word_buckets_end_at_multiples_of_8_and_at_the_limit(words, limit, buckets):
    statistics = Statistics(images=10, captions=50, regions=36, words=words)
    own = default_profiles(CONFIG, {**LIMITS, "words": limit}, statistics)["scorer"]
    assert sorted({profile.axes["words"].max for profile in own}) == buckets


def test_profiles_are_tuned_for_the_data_s_sizes():
    few = default_profiles(CONFIG, LIMITS, Statistics(images=20, captions=100, regions=10, words=(13, 24)))
    search, annotation, matrix = few["scorer"][:3]
    assert search.axes["images"].opt == matrix.axes["images"].opt == few["image_encoder"][1].axes["images"].opt == 20
    assert annotation.axes["captions"].opt == few["text_encoder"][1].axes["captions"].opt == 100
    assert search.axes["regions"] == few["image_encoder"][0].axes["regions"] == Range(1, 10, 10)
    many = default_profiles(CONFIG, LIMITS, Statistics(images=10**6, captions=10**6, regions=10, words=(13, 24)))
    full = [p for graph, own in many.items() if graph != "text_encoder" for p in own]
    assert all(size.opt == size.max for p in full for size in p.axes.values())


def test_statistics_of_a_split(tiny_data):
    lengths = np.arange(1, 31)
    assert Statistics.of_split(open_split(tiny_data), lengths) == Statistics(6, 30, 5, (15, 30))


@pytest.mark.parametrize(("num_regions", "regions"), [(50, 50), (None, 36), (0, 36), ("many", 36)])
def test_without_data_the_checkpoint_s_regions_are_taken(num_regions, regions):
    assert Statistics.assumed({**CONFIG, "num_regions": num_regions}).regions == regions
    assert Statistics.assumed({}).regions == 36


def test_encoder_profiles_hold_what_the_runtime_encodes_at_a_time():
    assert CHUNK == {"images": IMAGES_PER_CALL, "captions": CAPTIONS_PER_CALL}


def test_shapes_are_those_of_the_graphs_inputs(tiny_bundle):
    config = {"region_dim": 12, "embed_dim": 10, "attention_dim": 7}
    for graph, profiles in default_profiles(config, LIMITS, STATISTICS).items():
        inputs = onnx.load(tiny_bundle / "onnx" / f"{graph}.fp32.onnx").graph.input
        for profile in profiles:
            assert list(profile.shapes) == [value.name for value in inputs]
            for value in inputs:
                for number, dimension in enumerate(value.type.tensor_type.shape.dim):
                    result = Range(*(shape[number] for shape in profile.shapes[value.name]))
                    size = dimension.dim_value
                    assert result == (Range(size, size, size) if size else profile.axes[dimension.dim_param])


def test_the_manifest_s_form():
    (profile,) = parse_profiles([f"scorer:search:{SEARCH}"], CONFIG, LIMITS)["scorer"]
    assert profile.as_dict() == {
        "name": "search",
        "shapes": {
            "image_states": {"min": [1, 36, 5120], "opt": [256, 36, 5120], "max": [1000, 36, 5120]},
            "image_lengths": {"min": [1], "opt": [256], "max": [1000]},
            "text_states": {"min": [1, 3, 4096], "opt": [1, 14, 4096], "max": [1, 32, 4096]},
            "text_lengths": {"min": [1], "opt": [1], "max": [1]},
        },
    }


@given(configs, limits, statistics, budgets)
def test_a_profile_s_text_reads_back_as_the_profile(config, limits, statistics, budget):
    profiles = default_profiles(config, limits, statistics, budget)
    texts = [
        f"{graph}:{profile.name}:" + ",".join(f"{axis}={size}" for axis, size in reversed(profile.axes.items()))
        for graph, own in profiles.items()
        for profile in own
    ]
    assert parse_profiles(texts, config, limits) == profiles


def test_only_the_graphs_that_are_named_are_replaced():
    named = parse_profiles([f"scorer:a:{SEARCH}", f"scorer:b:{SEARCH}"], CONFIG, LIMITS)
    assert {graph: [p.name for p in own] for graph, own in named.items()} == {"scorer": ["a", "b"]}
    assert parse_profiles([], CONFIG, LIMITS) == {}
    assert parse_profiles([EXAMPLE], CONFIG, LIMITS)["scorer"][0].axes["images"] == Range(1, 256, 1000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is not GRAPH:NAME:axis=min/opt/max"),
        ("scorer", "it is not GRAPH:NAME"),
        (f"scorer:{SEARCH}", "it is not GRAPH:NAME"),
        (f"scorer::{SEARCH}", "it is not GRAPH:NAME"),
        (f"scorer:a/b:{SEARCH}", "it is not GRAPH:NAME"),
        (f"ranker:a:{SEARCH}", f"unknown graph 'ranker'; known: {', '.join(GRAPHS)}"),
        ("text_encoder:a:", "'' is not axis=min/opt/max"),
        ("text_encoder:a:captions=1,words", "'words' is not axis=min/opt/max"),
        ("text_encoder:a:captions=1,words=1/2", "'words=1/2' is not axis=min/opt/max"),
        ("text_encoder:a:captions=1,words=-1", "'words=-1' is not axis=min/opt/max"),
        ("text_encoder:a:captions=1,words=1.5", "'words=1.5' is not axis=min/opt/max"),
        ("text_encoder:a:captions=1,words=٣", "is not axis=min/opt/max"),
        (f"text_encoder:a:captions=1,words={'9' * 5000}", "is not axis=min/opt/max"),
        ("text_encoder:a:captions=1,words=3,regions=36", "no axis 'regions', it has captions, words"),
        ("text_encoder:a:captions=1,tokens=3", "no axis 'tokens'"),
        ("text_encoder:a:captions=1", "it lacks words"),
        ("scorer:a:images=1", "it lacks regions, captions, words"),
        ("text_encoder:a:captions=1,words=3,words=4", "'words' is given twice"),
        ("text_encoder:a:captions=1,words=4/3/9", "words=4/3/9 is not 1 ≤ min ≤ opt ≤ max"),
        ("text_encoder:a:captions=1,words=3/9/8", "words=3/9/8 is not 1 ≤ min ≤ opt ≤ max"),
        ("text_encoder:a:captions=1,words=5/3/5", "words=5/3/5 is not 1 ≤ min ≤ opt ≤ max"),
        ("text_encoder:a:captions=0/1/1,words=3", "captions=0/1/1 is not 1 ≤ min"),
        ("text_encoder:a:captions=0,words=3", "captions=0 is not 1 ≤ min"),
        ("text_encoder:a:captions=1,words=3/3/129", "beyond the model's limit, 128 words"),
        ("image_encoder:a:images=1,regions=513", "beyond the model's limit, 512 regions"),
    ],
)
def test_a_bad_profile_is_refused_with_an_example(text, says):
    with pytest.raises(InputError) as error:
        parse_profiles([text], CONFIG, LIMITS)
    assert says in str(error.value) and EXAMPLE in str(error.value)
    assert len(str(error.value).splitlines()) == 2 and len(str(error.value)) < 600


def test_two_profiles_of_one_name_are_refused():
    with pytest.raises(InputError, match="the scorer has two profiles 'a'"):
        parse_profiles([f"scorer:a:{SEARCH}", f"scorer:a:{SEARCH}"], CONFIG, LIMITS)


def test_the_table_shows_every_axis_in_tensorrt_s_order():
    table = profile_table(parse_profiles(["image_encoder:one:images=1,regions=1/10/36", EXAMPLE], CONFIG, LIMITS))
    rows = [line.split() for line in table.splitlines()]
    assert rows[0] == ["graph", "#", "profile", "images", "regions", "captions", "words"]
    assert rows[2:] == [
        ["image_encoder", "0", "one", "1", "1/10/36"],
        ["scorer", "0", "search", "1/256/1000", "36", "1", "3/14/32"],
    ]
