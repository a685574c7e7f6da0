"""`Retriever.explain` with every backend: golden values, the original words, and clear errors."""

import json
import sys
import threading

import numpy as np
import onnx
import pytest

from caan.bundle import SIDE_GRAPHS, change_bundle, graph_file, write_manifest
from caan.errors import BundleError, CaanWarning, DataError, MissingError
from caan.runtime import Explanation, Retriever
from caan.runtime.backends.contract import Tile
from caan.runtime.backends.onnxruntime import fp32_graphs as side_graphs

FIELDS = ("H", "Hu", "Hv", "av", "au")


@pytest.fixture
def features():
    return np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture
def older_bundle(tiny_bundle):
    """A bundle older than the explainer and expander graphs."""
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    for graph in SIDE_GRAPHS:
        (tiny_bundle / graph_file(graph, "fp32")).unlink()
    write_manifest(tiny_bundle, manifest)
    return tiny_bundle


def test_the_score_is_the_search_s(retriever, features):
    gallery = retriever.encode_images(features[None])
    assert retriever.explain(features, "w1 w2 w3").score == pytest.approx(
        retriever.score_matrix(gallery, ["w1 w2 w3"]).item(), abs=1e-6
    )


def test_attention_sums_to_one(retriever, features):
    explanation = retriever.explain(features, "w1 w2 w3")
    assert (explanation.H.shape, explanation.av.shape, explanation.au.shape) == ((5, 5), (5,), (5,))
    assert np.abs(explanation.H).max() <= 1
    for sums in (explanation.Hu.sum(axis=1), explanation.Hv.sum(axis=0), explanation.av.sum(), explanation.au.sum()):
        assert np.allclose(sums, 1, atol=1e-6)


def test_pytorch_explains_the_same(retriever, tiny_folder, features):
    reference = Retriever.open(tiny_folder / "model.pt", "torch").explain(features, "w4 w1")
    explanation = retriever.explain(features, "w4 w1")
    assert explanation.words == reference.words and explanation.score == pytest.approx(reference.score, abs=1e-5)
    for name in FIELDS:
        assert np.abs(getattr(explanation, name) - getattr(reference, name)).max() <= 1e-5, name


def test_weights_move_with_the_regions(retriever, features):
    order = np.array([3, 0, 4, 1, 2])
    explanation, moved = retriever.explain(features, "w1 w5"), retriever.explain(features[order], "w1 w5")
    assert np.abs(moved.av - explanation.av[order]).max() <= 1e-6
    assert np.abs(moved.Hv - explanation.Hv[order]).max() <= 1e-6
    assert np.abs(moved.au - explanation.au).max() <= 1e-6


def test_words_are_the_original_ones(retriever, features):
    explanation = retriever.explain(features, "W1 zebra w2")
    assert explanation.words == ["<start>", "w1", "zebra", "w2", "<end>"]
    assert explanation.known == [True, True, False, True, True]
    assert retriever.explain(features, ["w1", "Zebra"]).words == ["<start>", "w1", "Zebra", "<end>"]


def test_a_caption_that_is_too_long_is_cut_as_a_search_cuts_it(retriever, features):
    with pytest.warns(CaanWarning, match="longer than 126 words"):
        explanation = retriever.explain(features, "w1 " * 126 + "w2 zebra")
    assert explanation.words == ["<start>", *["w1"] * 126, "<end>"]
    assert len(explanation.known) == len(explanation.au) == 128 and explanation.H.shape == (5, 128)
    assert explanation.score == pytest.approx(retriever.explain(features, "w1 " * 126).score)


def test_an_explanation_is_plain_json(retriever, features):
    explanation = retriever.explain(features, "w1 w2")
    again = json.loads(json.dumps(explanation.as_dict()))
    assert set(again) == set(Explanation.__dataclass_fields__)
    assert again["words"] == explanation.words and np.allclose(again["Hv"], explanation.Hv)


def test_padding_of_a_tile_is_zero(retriever):
    generator = np.random.default_rng(1)
    states = [generator.standard_normal((3, size, width)).astype(np.float32) for size, width in ((4, 41), (6, 31))]
    lengths = [np.array([4, 2, 1]), np.array([6, 3, 2])]
    explanation = retriever.backend.explain(Tile(states[0], lengths[0], states[1], lengths[1]))
    region, word = (np.arange(s.shape[1]) < n[:, None] for s, n in zip(states, lengths, strict=True))
    valid = region[:, None, :, None] & word[None, :, None, :]  # (3, 3, 4, 6)
    for name in ("H", "Hu", "Hv"):
        assert (explanation[name][~np.broadcast_to(valid, explanation[name].shape)] == 0).all()
    assert (explanation["av"][~np.broadcast_to(region[:, None], (3, 3, 4))] == 0).all()
    assert (explanation["au"][~np.broadcast_to(word[None], (3, 3, 6))] == 0).all()


@pytest.mark.parametrize("name", ["model.caan", "model.pt"])
def test_regions_expand_to_the_encoder_s_states(tiny_folder, features, name):
    backend = Retriever.open(tiny_folder / name, "torch" if name == "model.pt" else "onnxruntime").backend
    states = backend.encode_images(features[None])
    expanded = backend.expand_regions(np.ascontiguousarray(states[..., :10]))
    assert expanded.dtype == np.float32 and np.abs(expanded - states).max() <= 1e-6


def test_half_size_regions_expand_in_float32(retriever, features):
    states = retriever.backend.encode_images(features[None])
    expanded = retriever.backend.expand_regions(states[..., :10].astype(np.float16))
    assert expanded.dtype == np.float32 and 0 < np.abs(expanded - states).max() <= 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[None], r"one image's features \(regions, features\), not \(1, 5, 12\); pick one: features\[0\]"),
        (lambda f: f[:, :11], "features have dimension 11, the model was trained on 12"),
        (lambda f: f[:0], "features have 0 regions"),
        (lambda f: f.tolist(), "not list"),
        (lambda f: f * np.nan, "can't be encoded: its features hold NaN"),
    ],
)
def test_features_that_can_t_be_explained(retriever, features, change, message):
    with pytest.raises(DataError, match=message):
        retriever.explain(change(features), "w1")


@pytest.mark.parametrize(("caption", "message"), [("zebra quagga", "no word of 'zebra quagga'"), ("  ", "is empty")])
def test_captions_that_can_t_be_explained(retriever, features, caption, message):
    with pytest.raises(DataError, match=message):
        retriever.explain(features, caption)


def test_a_bundle_without_the_graphs_searches_and_says_what_it_lacks(older_bundle, features):
    old = Retriever.open(older_bundle)
    assert len(old.search("w1", old.encode_images(features[None]), k=1)) == 1
    with pytest.raises(BundleError, match=r"no explainer graph.*export the checkpoint again"):
        old.explain(features, "w1")
    with pytest.raises(BundleError, match=r"no expander graph.*export the checkpoint again"):
        old.backend.expand_regions(np.zeros((1, 2, 10), np.float32))


def test_a_graph_of_another_bundle_is_refused_by_name(tiny_bundle, features):
    """The bundle is replaced after it was opened, before the graph is first used."""
    opened = Retriever.open(tiny_bundle)
    path = tiny_bundle / graph_file("explainer", "fp32")
    other = onnx.load(path)
    other.producer_name = "another"
    path.unlink()  # a replaced bundle has another file
    onnx.save(other, path)
    with pytest.raises(BundleError, match=r"explainer\.fp32\.onnx is not the file this bundle was opened with"):
        opened.explain(features, "w1")
    path.unlink()
    with pytest.raises(BundleError, match=r"can't read .*explainer\.fp32\.onnx"):
        opened.explain(features, "w1")


def test_a_changed_bundle_keeps_the_graphs(tiny_bundle, features):
    """Passes and engines change bundles, but not these graphs."""
    before = [(tiny_bundle / graph_file(graph, "fp32")).read_bytes() for graph in SIDE_GRAPHS]
    expected = Retriever.open(tiny_bundle).explain(features, "w1").score
    change_bundle(tiny_bundle, lambda folder, manifest: manifest.update(note="changed"))
    assert [(tiny_bundle / graph_file(graph, "fp32")).read_bytes() for graph in SIDE_GRAPHS] == before
    assert Retriever.open(tiny_bundle).explain(features, "w1").score == expected


def test_a_graph_that_was_opened_outlives_its_file(tiny_bundle, features):
    opened = Retriever.open(tiny_bundle)
    first = opened.explain(features, "w1")
    (tiny_bundle / graph_file("explainer", "fp32")).unlink()
    assert opened.explain(features, "w1").score == first.score


def test_threads_open_a_graph_once(tiny_folder, features, monkeypatch):
    real, opened = side_graphs.Fp32Graphs._open, []
    monkeypatch.setattr(side_graphs.Fp32Graphs, "_open", lambda self, name: opened.append(name) or real(self, name))
    retriever, start, scores = Retriever.open(tiny_folder / "model.caan"), threading.Barrier(8), []

    def work():
        start.wait()
        scores.append(retriever.explain(features, "w1 w2").score)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == ["explainer"] and len(scores) == 8 and len(set(scores)) == 1


def test_without_onnx_runtime_the_message_says_what_to_install(retriever, tiny_folder, features, monkeypatch):
    opened = Retriever.open(tiny_folder / "model.caan")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"the explainer graph needs .*\[cpu\]"):
        opened.explain(features, "w1")
