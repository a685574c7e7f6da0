"""Which arrays stay on the device, and that none is confused with another."""

import gc
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.runtime import Gallery
from caan.runtime.backends.device_cache import _IDLE_LOOKUPS, DeviceCache


def gallery(items=8, rows=2, width=4):
    states = np.arange(items * rows * width, dtype=np.float32).reshape(items * rows, width)
    return Gallery("image", "hash", states, np.arange(items + 1) * rows)


def tile(gallery, start, end):
    return gallery.gather(np.arange(start, end))[0]


@pytest.fixture
def tiles():
    return DeviceCache(lambda: 1 << 20)


def keep(tiles, array, value="copy"):
    """As a backend does: nothing on first use, a copy on the second."""
    if tiles.find(array) is None and tiles.should_keep(array):
        tiles.keep(array, value)


def test_a_tile_is_kept_on_its_second_use(tiles):
    images = gallery()
    assert not tiles.should_keep(tile(images, 0, 4))
    assert tiles.should_keep(tile(images, 0, 4))
    tiles.keep(tile(images, 0, 4), "copy")
    assert tiles.find(tile(images, 0, 4)) == "copy"


def test_adjacent_tiles_are_not_confused(tiles):
    images = gallery()
    for _ in range(2):
        for start, end in ((0, 4), (4, 8), (0, 8), (0, 2)):
            keep(tiles, tile(images, start, end), (start, end))
    for start, end in ((0, 4), (4, 8), (0, 8), (0, 2)):
        assert tiles.find(tile(images, start, end)) == (start, end)
    assert tiles.find(tile(images, 2, 4)) is None


@pytest.mark.parametrize("shape", [(4, 2, 4), (2, 4, 4), (4, 4, 2)])
def test_the_same_memory_in_another_shape_is_another_array(tiles, shape):
    images = gallery(4)
    for _ in range(2):
        keep(tiles, images.states.reshape(8, 4))
    assert tiles.find(images.states.reshape(8, 4)) == "copy"
    assert tiles.find(images.states.reshape(shape)) is None
    assert tiles.find(images.states.view(np.int32)) is None


def test_writeable_arrays_and_arrays_without_a_base_are_not_kept(tiles):
    own = np.ones((4, 4), np.float32)
    own.flags.writeable = False
    writeable = np.ones((8, 4), np.float32)[:4]
    ragged = Gallery("image", "hash", np.ones((5, 4), np.float32), np.array([0, 2, 5]))
    padded, _ = ragged.gather(np.arange(2))
    for array in (own, writeable, padded):
        for _ in range(3):
            assert tiles.find(array) is None
            assert not tiles.should_keep(array)


@pytest.mark.slow
def test_a_collected_gallery_frees_its_space():
    room = tile(gallery(), 0, 8).nbytes
    tiles = DeviceCache(lambda: room)
    for number in range(5):
        images = gallery()
        for _ in range(2):
            keep(tiles, tile(images, 0, 8), number)
        assert tiles.find(tile(images, 0, 8)) == number
        del images
        gc.collect()


def test_an_array_at_a_freed_address_is_not_found(tiles):
    """Memory and ids are reused immediately; the new array must not get the old one's copy."""
    for number in range(200):
        images = gallery()
        assert tiles.find(tile(images, 0, 8)) is None
        assert not tiles.should_keep(tile(images, 0, 8))
        keep(tiles, tile(images, 0, 8), number)
        assert tiles.find(tile(images, 0, 8)) == number


def test_a_full_device_evicts_only_long_unused_copies():
    first, second = gallery(), gallery()
    tiles = DeviceCache(lambda: tile(first, 0, 8).nbytes)
    for _ in range(3):
        keep(tiles, tile(first, 0, 8))
        keep(tiles, tile(second, 0, 8))
    assert tiles.find(tile(first, 0, 8)) == "copy" and tiles.find(tile(second, 0, 8)) is None
    for _ in range(_IDLE_LOOKUPS + 1):
        keep(tiles, tile(second, 0, 8), "other")
    assert tiles.find(tile(second, 0, 8)) == "other" and tiles.find(tile(first, 0, 8)) is None


def test_scanning_a_gallery_larger_than_the_device_still_gets_hits():
    images = gallery(100)
    tiles = DeviceCache(lambda: 30 * tile(images, 0, 1).nbytes)
    for _ in range(3):
        for item in range(100):
            keep(tiles, tile(images, item, item + 1), item)
    assert sum(tiles.find(tile(images, item, item + 1)) == item for item in range(100)) == 30


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(1, 8)), max_size=60), st.integers(0, 2000))
def test_lookups_return_what_was_kept(steps, budget):
    galleries, tiles, kept = [gallery() for _ in range(4)], DeviceCache(lambda: budget), {}
    for which, start, count in steps:
        array = tile(galleries[which], start, min(start + count, 8))
        cached = tiles.find(array)
        assert cached is None or (cached == array).all()
        if cached is None and tiles.should_keep(array):
            tiles.keep(array, array.copy())
            kept[which, start, len(array)] = array.nbytes
            assert tiles.find(array) is not None
    assert sum(kept.values()) <= budget


def test_threads_share_it(tiles):
    images, wrong = gallery(64), []

    def work():
        for _ in range(20):
            for item in range(64):
                keep(tiles, tile(images, item, item + 1), item)
                if tiles.find(tile(images, item, item + 1)) not in (item, None):
                    wrong.append(item)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [tiles.find(tile(images, item, item + 1)) for item in range(64)] == list(range(64))


def test_of_two_copies_the_first_stays_and_one_is_counted():
    images = gallery()
    tiles = DeviceCache(lambda: 2 * tile(images, 0, 4).nbytes)
    tiles.keep(tile(images, 0, 4), "first")
    tiles.keep(tile(images, 0, 4), "second")
    assert tiles.find(tile(images, 0, 4)) == "first"
    tiles.keep(tile(images, 4, 8), "other")
    assert tiles.find(tile(images, 4, 8)) == "other"


def test_clearing_frees_all_space():
    images = gallery()
    tiles = DeviceCache(lambda: tile(images, 0, 8).nbytes)
    for _ in range(2):
        for _ in range(2):
            keep(tiles, tile(images, 0, 8))
        assert tiles.find(tile(images, 0, 8)) == "copy"
        tiles.clear()
        assert tiles.find(tile(images, 0, 8)) is None
        assert not tiles.should_keep(tile(images, 0, 8))
