"""A caption is split into words only once, despite several checks before encoding."""

from collections import Counter

import numpy as np
import pytest

from caan.data import vocabulary
from caan.runtime import BatchingRetriever, Gallery, Retriever
from caan.runtime.index import Captions


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1)


@pytest.fixture(scope="module")
def images(retriever):
    return retriever.encode_images(np.random.default_rng(0).standard_normal((6, 5, 12)).astype(np.float32))


@pytest.fixture
def split(monkeypatch):
    """How often each caption was split."""
    times = Counter()
    for name, tokenize in list(vocabulary.TOKENIZERS.items()):

        def counted(caption, tokenize=tokenize):
            times[caption] += 1
            return tokenize(caption)

        monkeypatch.setitem(vocabulary.TOKENIZERS, name, counted)
    return times


TEXTS = ["w1 w2", "w3", "w4 w5 w6"]


@pytest.mark.parametrize("way", ["search", "search_many", "batched", "matrix", "encode", "index", "explain"])
def test_every_entry_point_splits_a_caption_once(retriever, images, split, way):
    with BatchingRetriever(retriever, max_delay_ms=20) as batching:
        ways = {
            "search": lambda: [retriever.search(text, images, 2) for text in TEXTS],
            "search_many": lambda: retriever.search_many(TEXTS, images, 2),
            "batched": lambda: [a.result(60) for a in [batching.submit(text, images, 2) for text in TEXTS]],
            "matrix": lambda: retriever.score_matrix(images, TEXTS),
            "encode": lambda: retriever.encode_captions(TEXTS),
            "index": lambda: Captions(retriever, TEXTS),
            "explain": lambda: [retriever.explain(np.ones((5, 12), np.float32), text) for text in TEXTS],
        }
        ways[way]()
    assert split == Counter(TEXTS)


def test_the_command_splits_a_caption_once(run, tiny_folder, retriever, split, tmp_path):
    Gallery.create(tmp_path / "gallery", retriever, np.ones((3, 5, 12), np.float32))
    (tmp_path / "captions.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    for arguments in ([TEXTS[0]], ["--captions", tmp_path / "captions.txt", "--json"]):
        split.clear()
        done = run("search", tmp_path / "gallery", *arguments)
        assert done.code == 0, done.err
        assert set(split.values()) == {1}, split
