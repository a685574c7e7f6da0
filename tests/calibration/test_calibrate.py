"""Calibration from a bundle and a data set: ranges, records, and rejected inputs."""

import dataclasses
import json
import math

import numpy as np
import onnx
import pytest

from caan.bundle import GRAPHS, open_bundle
from caan.calibration import calibrate as module
from caan.calibration.calibrate import calibrate
from caan.calibration.observe import activation_inputs
from caan.calibration.pairs import draw_sample
from caan.calibration.ranges import METHODS
from caan.data.vocabulary import Vocabulary
from caan.errors import BundleError, CaanWarning, DataError, InputError
from caan.runtime import Retriever

D, ATTENTION = 10, 7  # of the tiny model


@pytest.fixture
def feeds(monkeypatch) -> list:
    """All feeds that the calibration runs through a graph."""
    seen, original = [], module.observe

    def spy(graph, tensors, feeds):
        return original(graph, tensors, (seen.append(feed) or feed for feed in feeds))

    monkeypatch.setattr(module, "observe", spy)
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_every_activation_of_every_product_gets_a_range(bundle, make_split, cache_folder, method):
    result = calibrate(bundle, make_split(), method=method)
    assert set(result.ranges) == set(GRAPHS)
    for name, ranges in result.ranges.items():
        inputs = activation_inputs(onnx.load(bundle.graph(name, "fp32"))).values()
        assert set(ranges) == {tensor for names in inputs for tensor in names}
        assert all(isinstance(value, float) and 0 < value < math.inf for value in ranges.values())


def test_min_max_finds_the_largest_values_of_the_sample(bundle, make_split, cache_folder):
    dataset = make_split(160)
    result = calibrate(bundle, dataset, method="min-max", seed=5).ranges
    sample = draw_sample(dataset, 5)
    retriever = Retriever.open(bundle.folder)
    images = np.abs(retriever.encode_images(dataset.features[sample.images]).states).max(axis=0)
    texts = np.abs(retriever.encode_captions([dataset.captions[n] for n in sample.captions]).states).max(axis=0)
    products = {name: inputs for graph in GRAPHS for name, inputs in inputs_of(bundle, graph).items()}
    VK, U = (result["scorer"][name] for name in products["scorer/H"])
    Q5, Q6 = (result["scorer"][products[f"scorer/{name}"][1]] for name in ("Su_UQ5", "Hvt_VQ6"))
    expected = {
        "features": (result["image_encoder"]["features"], np.abs(dataset.features[sample.images]).max()),
        "V": (result["image_encoder"][products["image_encoder/VK"][0]], images[:D].max()),
        "U": (result["text_encoder"][products["text_encoder/UQ3"][0]], texts[:D].max()),
        "VK": (VK, images[D : 2 * D].max()),
        "U in H": (U, texts[:D].max()),
        "UQ5": (Q5, texts[-ATTENTION:].max()),
        "VQ6": (Q6, images[-ATTENTION:].max()),
    }
    assert {name: value for name, (value, _) in expected.items()} == pytest.approx(
        {name: float(value) for name, (_, value) in expected.items()}, rel=1e-5
    )


def test_padding_regions_do_not_count(bundle, make_split, cache_folder, feeds):
    """Whatever they hold, the ranges are those of the images' own regions."""
    whole = make_split(160)
    lengths = np.random.default_rng(1).integers(1, 6, 160)
    padding = np.arange(5) >= lengths[:, None]  # (images, R)
    results = []
    for value in (0.0, 1e4, np.nan):
        features = np.where(padding[..., None], np.float32(value), whole.features)
        dataset = dataclasses.replace(whole, features=features, lengths=lengths)
        results.append(calibrate(bundle, dataset, method="min-max").ranges)
    assert results[0] == results[1] == results[2]
    sample = draw_sample(whole, 0)
    own = np.abs(whole.features[sample.images])[~padding[sample.images]].max()
    assert results[0]["image_encoder"]["features"] == pytest.approx(float(own))
    pairs = sum(len(f["image_lengths"]) * len(f["text_lengths"]) for f in feeds if "image_lengths" in f)
    assert pairs % sample.pairs == 0 and pairs > 0
    assert all(f["image_states"].shape[1] == f["image_lengths"][0] for f in feeds if "image_lengths" in f)


def inputs_of(bundle, graph):
    return activation_inputs(onnx.load(bundle.graph(graph, "fp32")))


def test_the_scorer_sees_every_pair_of_the_sample_and_no_padding(bundle, make_split, cache_folder, feeds):
    result = calibrate(bundle, make_split(160), method="min-max")  # 40 images, more than one feed
    assert result.record["images"] == 40
    texts = [feed for feed in feeds if "tokens" in feed]
    tiles = [feed for feed in feeds if "image_states" in feed]
    assert all((feed["text_lengths"] == feed["tokens"].shape[1]).all() for feed in texts)
    assert all((feed["text_lengths"] == feed["text_states"].shape[1]).all() for feed in tiles)
    assert all((feed["image_lengths"] == feed["image_states"].shape[1]).all() for feed in tiles)
    assert sum(len(feed["image_states"]) * len(feed["text_states"]) for feed in tiles) == result.record["pairs"]


def test_the_captions_of_the_sample_are_encoded_and_no_others(bundle, make_split, cache_folder, feeds):
    dataset = make_split()
    calibrate(bundle, dataset, method="min-max")
    vocabulary = Vocabulary.load(bundle.folder / "vocab.json")
    expected = [vocabulary.encode(dataset.captions[n]) for n in draw_sample(dataset, 0).captions]
    result = [row.tolist() for feed in feeds if "tokens" in feed for row in feed["tokens"]]
    # once for the states, once for the ranges
    assert sorted(result) == sorted(2 * expected)


def test_the_record_is_json_and_says_what_was_used(bundle, make_split, cache_folder):
    dataset = make_split()
    result = calibrate(bundle, dataset, method="mse", seed=2)
    sample = draw_sample(dataset, 2)
    record = json.loads(json.dumps(result.record))
    assert record == result.record
    expected = {"data": "data", "split": "train", "method": "mse", "seed": 2}
    expected |= {"images": 25, "captions": len(sample.captions), "pairs": sample.pairs, "positives": sample.positives}
    assert {name: record[name] for name in expected} == expected
    assert set(record["graphs_sha256"]) == set(GRAPHS) and len(record["data_sha256"]) == 64
    assert np.array_equal(result.held_out, sample.held_out) and record["held_out"] == len(sample.held_out)


def test_long_captions_are_cut_as_the_runtime_cuts_them(bundle, make_split, cache_folder, feeds):
    dataset = make_split()
    long = dataclasses.replace(dataset, captions=["w1 " * 200] * len(dataset.captions))
    with pytest.warns(CaanWarning, match="longer than 126 words"):
        calibrate(bundle, long, method="min-max")
    tokens = next(feed["tokens"] for feed in feeds if "tokens" in feed)
    assert tokens.shape[1] == 128 and (tokens[:, -1] == 2).all() and (tokens[:, 0] == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region_dim": 11}, r"data \(train\) has features of dimension 11, the model was trained on 12"),
        ({"regions": 513}, r"513 regions per image, the model takes 1 to 512"),
        ({"images": 20}, r"20 images and 100 captions, too few: .* at least 64 images"),
    ],
)
def test_data_that_do_not_fit_are_refused(bundle, make_split, cache_folder, change, message):
    with pytest.raises(DataError, match=message):
        calibrate(bundle, make_split(**change), method="mse")
    assert not cache_folder.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize("image", [0, 77, 99])
def test_features_that_no_float_holds_are_refused_with_the_image(bundle, make_split, cache_folder, value, image):
    dataset = make_split()
    features = dataset.features.astype(np.float64)
    features[image, 2, 3] = value
    with pytest.raises(DataError, match=rf"image {image} \(photo{image}\) of data \(train\).*NaN or infinite"):
        calibrate(bundle, dataclasses.replace(dataset, features=features), method="mse")
    with pytest.raises(DataError, match=rf"image {image} of data"):
        calibrate(bundle, dataclasses.replace(dataset, features=features, ids=None), method="mse")
    assert not cache_folder.exists()


def test_an_unknown_method_is_refused_before_anything_is_read(bundle):
    with pytest.raises(InputError, match="known: min-max, entropy, percentile, mse"):
        calibrate(bundle, None, method="max")


def test_a_bundle_that_is_replaced_meanwhile_is_not_calibrated(tiny_bundle, make_split, cache_folder):
    opened = open_bundle(tiny_bundle)
    path = opened.graph("scorer", "fp32")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"scorer\.fp32\.onnx .*was replaced"):
        calibrate(opened, make_split(), method="min-max")
    assert not cache_folder.exists()
