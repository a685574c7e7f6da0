"""How the Retriever feeds tiles to a backend: any number in flight, results in order, tiles within its limits."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.errors import CaanWarning, DataError
from caan.runtime import Retriever
from caan.runtime.backends.contract import GraphTiles
from caan.tiling import DEFAULT_TILE_BYTES, GPU_TILE_BYTES, TileSize

WORDS = [f"w{number}" for number in range(20)]


class Pipelined:
    """A backend that consumes several tiles before it yields scores, and limits their size."""

    def __init__(self, backend, depth, limits):
        self._backend, self._depth = backend, depth
        self.tiles = GraphTiles(lambda regions, words: limits)
        self.scored = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def score_tiles(self, tiles, layout=None):
        waiting = deque()
        for tile in tiles:
            self.scored.append(tile)
            waiting.append(tile)
            if len(waiting) > self._depth:
                yield self._backend.score(*waiting.popleft())
        while waiting:
            yield self._backend.score(*waiting.popleft())


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime")


limits = st.lists(st.builds(TileSize, st.integers(1, 6), st.integers(1, 6)), max_size=3)


@given(st.integers(0, 5), limits, st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32), st.booleans())
def test_scores_are_independent_of_tiling_and_queueing(retriever, depth, limits, images, captions, seed, as_gallery):
    generator = np.random.default_rng(seed)
    features = generator.standard_normal((images, 5, 12)).astype(np.float32)
    gallery = retriever.encode_images(features, generator.integers(1, 6, images))
    texts = [list(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(captions)]
    backend = Pipelined(retriever.backend, depth, limits)
    queries = retriever.encode_captions(texts) if as_gallery else texts
    scores = Retriever(backend).score_matrix(gallery, queries)
    assert np.abs(scores - retriever.score_matrix(gallery, texts)).max() <= 2e-6
    sizes = [TileSize(len(tile.image_states), len(tile.text_states)) for tile in backend.scored]
    if limits:
        assert all(any(s.images <= n and s.captions <= m for n, m in map(pair, limits)) for s in sizes)
    assert sum(size.images * size.captions for size in sizes) == images * captions


def pair(size):
    return size.images, size.captions


def test_a_bad_caption_is_found_before_anything_is_scored(retriever):
    backend = Pipelined(retriever.backend, 0, [])
    gallery = retriever.encode_images(np.ones((2, 5, 12), np.float32))
    with pytest.raises(DataError, match="caption 200: the caption is empty"):
        Retriever(backend).score_matrix(gallery, [*["w1"] * 200, ""])
    assert backend.scored == []


def test_a_warning_points_at_the_caller(retriever):
    gallery = retriever.encode_images(np.ones((2, 5, 12), np.float32))
    for call in (retriever.encode_captions, lambda captions: retriever.score_matrix(gallery, captions)):
        with pytest.warns(CaanWarning, match="without any word") as warnings:
            call(["zebra"])
        assert warnings[0].filename == __file__


def test_a_gpu_gets_larger_tiles(retriever, monkeypatch):
    assert Retriever(retriever.backend).tile_bytes == DEFAULT_TILE_BYTES
    monkeypatch.setattr(retriever.backend, "device", "cuda")
    assert Retriever(retriever.backend).tile_bytes == GPU_TILE_BYTES
    assert Retriever(retriever.backend, 1000).tile_bytes == 1000
