"""Sampling of calibration pairs: proportions, lengths, seeds, held-out images, and tiles without padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.calibration.pairs import SampleSize, draw_sample, equal_lengths, tiles
from caan.errors import DataError
from caan.tiling import TileSize


@settings(max_examples=40)
@given(st.integers(64, 700), st.integers(0, 100))
def test_pairs_are_matched_as_in_production_and_half_of_the_images_are_held_out(make_split, images, seed):
    dataset = make_split(images, regions=1, region_dim=1)
    sample = draw_sample(dataset, seed)
    sources = dataset.image_of_caption[sample.captions]
    assert len(np.unique(sample.images)) == len(sample.images) <= 64
    assert len(np.unique(sample.captions)) == len(sample.captions)
    assert 1000 <= sample.pairs == len(sample.images) * len(sample.captions) <= 4096
    matches = (sample.images[:, None] == sources).sum()
    assert matches == sample.positives
    assert abs(matches - max(sample.pairs / images, 8)) <= 1
    touched = np.union1d(sample.images, sources)
    assert np.intersect1d(sample.held_out, touched).size == 0
    assert np.array_equal(np.union1d(sample.held_out, touched), np.arange(images))
    assert len(sample.held_out) >= images / 2


def test_five_hundred_images_give_64_times_64_pairs_with_a_match_in_500(make_split):
    sample = draw_sample(make_split(500), 0)
    assert (len(sample.images), len(sample.captions), sample.pairs, sample.positives) == (64, 64, 4096, 8)


def test_a_large_data_set_still_shows_a_handful_of_matches(make_split):
    assert draw_sample(make_split(20_000, regions=1, region_dim=1), 0).positives == 8


def test_one_caption_per_image_is_enough(make_split):
    sample = draw_sample(make_split(200, captions_per_image=1), 0)
    assert sample.pairs >= 1000 and len(sample.held_out) >= 100


def test_a_seed_gives_one_sample_and_another_seed_another(make_split):
    dataset = make_split()
    first, again, other = (draw_sample(dataset, seed) for seed in (3, 3, 4))
    for name in ("images", "captions", "held_out"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.images, other.images)
    assert not np.array_equal(first.captions, other.captions)


def test_the_size_bounds_what_is_drawn(make_split):
    sample = draw_sample(make_split(500), 0, SampleSize(images=40, pairs=1300))
    assert (len(sample.images), len(sample.captions)) == (40, 32)


def test_captions_are_drawn_in_the_lengths_that_occur(make_split):
    dataset = make_split(300, longest=30)
    lengths = np.array([len(caption.split()) for caption in dataset.captions])
    drawn = np.concatenate([lengths[draw_sample(dataset, seed).captions] for seed in range(40)])
    assert abs(drawn.mean() - lengths.mean()) < 0.7
    assert abs(drawn.std() - lengths.std()) < 0.7


@pytest.mark.parametrize(("images", "per_image", "pairs"), [(63, 5, None), (64, 1, 336)])
def test_too_few_data_are_refused_with_what_is_there_and_what_is_needed(make_split, images, per_image, pairs):
    with pytest.raises(DataError) as error:
        draw_sample(make_split(images, per_image), 0)
    message = str(error.value)
    assert message.startswith(f"data (train) has {images} images and {images * per_image} captions")
    assert "at least 64 images and 1,000 pairs" in message
    assert pairs is None or f"which give {pairs} pairs" in message


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=9),
    st.lists(st.integers(3, 7), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_tiles_hold_every_pair_once_and_items_of_one_length(regions, lengths, tile_images, tile_captions):
    regions, lengths = np.array(regions), np.array(lengths)
    seen = np.zeros((len(regions), len(lengths)), int)
    for rows, columns in tiles(regions, lengths, TileSize(tile_images, tile_captions)):
        assert len(rows) <= tile_images and len(columns) <= tile_captions
        assert len(set(lengths[columns])) == len(set(regions[rows])) == 1
        seen[np.ix_(rows, columns)] += 1
    assert (seen == 1).all()


def test_groups_are_of_one_length_each_shortest_first():
    groups = equal_lengths(np.array([5, 3, 5, 9]))
    assert [group.tolist() for group in groups] == [[1], [0, 2], [3]]
