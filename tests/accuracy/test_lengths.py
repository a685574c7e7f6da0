"""Padding regions never count: every consumer of a data set scores an image as without its padding."""

import json

import numpy as np
import pytest

from caan.accuracy.gate import fp32_gate
from caan.accuracy.workload import data_workload
from caan.bench.worker import RowSpec, _Row
from caan.data.scan import open_split
from caan.metrics import five_fold_metrics, retrieval_metrics
from caan.runtime import Gallery, Retriever

LENGTHS = [5, 2, 3, 1, 4, 5]


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture
def padded(tiny_data):
    """The tiny data set with images of fewer regions: padding of NaN, which would spoil any score that counts it."""
    features = np.load(tiny_data / "test_ims.npy")
    for image, length in enumerate(LENGTHS):
        features[image, length:] = np.nan
    np.save(tiny_data / "test_ims.npy", features)
    np.save(tiny_data / "test_lengths.npy", np.array(LENGTHS))
    return tiny_data


@pytest.fixture
def expected(retriever, padded):
    """The scores of the images alone, each with its own regions."""
    data = open_split(padded)
    images = [np.array(data.features[image, :length])[None] for image, length in enumerate(LENGTHS)]
    return np.concatenate([retriever.score_dataset(image, data.captions) for image in images])


def test_the_scores_are_those_of_the_images_without_padding(retriever, padded, expected):
    np.testing.assert_allclose(data_workload(padded, "test").scores(retriever), expected, atol=1e-6)


def test_rows_repeated_per_caption_have_the_lengths_of_their_image(retriever, padded, expected):
    features = np.load(padded / "test_ims.npy")
    np.save(padded / "test_ims.npy", np.repeat(features, 5, axis=0))
    for lengths in (LENGTHS, np.repeat(LENGTHS, 5)):
        np.save(padded / "test_lengths.npy", lengths)
        np.testing.assert_allclose(data_workload(padded, "test").scores(retriever), expected, atol=1e-6)


def test_part_of_a_data_set_keeps_its_lengths(retriever, padded, expected):
    part = data_workload(padded, "test").subset(np.array([1, 3]))
    np.testing.assert_allclose(part.scores(retriever), expected[[1, 3]][:, [*range(5, 10), *range(15, 20)]], atol=1e-6)


def test_eval_does_not_count_padding(run, tiny_folder, padded, expected, tmp_path):
    done = run("eval", tiny_folder / "model.caan", "--data", padded, "--json", "--export", tmp_path / "s.npy")
    assert json.loads(done.out) == retrieval_metrics(expected).as_dict()
    assert "6 images × 30 captions: one row per image, 5 captions each, 1 to 5 regions by test_lengths.npy" in done.err
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), expected, atol=1e-6)


def test_pytorch_does_not_count_padding(tiny_folder, padded, expected):
    reference = Retriever.open(tiny_folder / "model.pt", "torch")
    np.testing.assert_allclose(data_workload(padded, "test").scores(reference), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_row_of_the_bench_does_not_count_padding(tiny_folder, padded, expected, tmp_path, name):
    spec = RowSpec(name, name, tiny_folder / ("model.pt" if name == "torch" else "model.caan"))
    row = _Row(spec, data_workload(padded, "test"), 1, tmp_path)
    row._caption_gallery = lambda: row.some_captions  # 5,000 captions take seconds
    np.testing.assert_allclose(row.prepare()["scores"], expected, atol=1e-5)
    assert row.some_images.lengths.tolist() == LENGTHS


def test_index_and_explain_find_the_lengths_beside_the_features(
    run, tiny_folder, retriever, padded, expected, tmp_path
):
    bundle, features = tiny_folder / "model.caan", padded / "test_ims.npy"
    assert run("index", bundle, features, "-o", tmp_path / "gallery", "--dtype", "float32").code == 0
    gallery, captions = Gallery.open(tmp_path / "gallery"), open_split(padded).captions
    assert gallery.lengths.tolist() == LENGTHS
    np.testing.assert_allclose(retriever.score_matrix(gallery, captions), expected, atol=1e-6)
    explained = json.loads(run("explain", bundle, features, captions[0], "--item", 3, "--json").out)
    assert explained["score"] == pytest.approx(expected[3, 0], abs=1e-5) and len(explained["av"]) == 1


def test_search_with_images_does_not_count_padding(run, tiny_folder, padded, expected, tmp_path):
    bundle, features = tiny_folder / "model.caan", padded / "test_ims.npy"
    assert run("index", bundle, padded / "test_caps.txt", "-o", tmp_path / "texts", "--dtype", "float32").code == 0
    hits = json.loads(run("search", tmp_path / "texts", "--features", features, "--item", 3, "-k", 1, "--json").out)
    assert hits[0]["score"] == pytest.approx(float(expected[3].max()), abs=1e-5)


def test_the_gate_of_an_export_says_how_the_data_set_is_read(tiny_folder, tiny_data):
    told = []
    reference = Retriever.open(tiny_folder / "model.pt", "torch", device="cpu")
    fp32_gate(data_workload(tiny_data, "test"), reference, told.append)
    assert told == ["data test, 6 images × 30 captions: one row per image, 5 captions each"]


def test_other_lengths_are_other_data(padded):
    first = data_workload(padded, "test").digest()
    np.save(padded / "test_lengths.npy", np.array([5, 2, 3, 1, 4, 4]))
    assert data_workload(padded, "test").digest() != first


def test_lengths_that_hold_every_region_are_the_same_data_as_none(tiny_data):
    without = data_workload(tiny_data, "test")
    np.save(tiny_data / "test_lengths.npy", np.full(6, 5))
    assert data_workload(tiny_data, "test").digest() == without.digest()


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        (
            [5, 2, 0, 1, 4, 5],
            "test_lengths.npy: image 2 has 0 regions; the features hold 5 each, so lengths are 1 to 5",
        ),
        ([5, 2, 3, 6, 4, 5], "image 3 has 6 regions"),
        ([5, -1, 3, 1, 4, 5], "image 1 has -1 regions"),
        ([5, 2, 3], "holds 3 lengths, the features 6 images; write one per image"),
        ([5.0] * 6, "test_lengths.npy holds float64 (6,); expected integers"),
        ([[5] * 6], "expected integers (images,)"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(refused, tiny_folder, tiny_data, lengths, says):
    np.save(tiny_data / "test_lengths.npy", np.array(lengths))
    refused("eval", tiny_folder / "model.caan", "--data", tiny_data, says=[says])


@pytest.fixture
def ten(tiny_folder, tmp_path):
    """Ten images with 2 to 4 captions each, by their ids."""
    from tests.conftest import write_tiny_data

    write_tiny_data(tmp_path / "ten", images=10)
    captions = (tmp_path / "ten" / "test_caps.txt").read_text().splitlines()
    counts = [2, 3, 4, 2, 2, 3, 3, 4, 2, 2]
    (tmp_path / "ten" / "test_caps.txt").write_text("\n".join(captions[: sum(counts)]))
    names = [f"photo {n}.jpg" for n, count in enumerate(counts) for _ in range(count)]
    (tmp_path / "ten" / "test_ids.txt").write_text("\n".join(names))
    return tmp_path / "ten"


def test_folds_score_only_their_own_pairs_and_both_protocols_come_out_of_one_run(
    run, retriever, tiny_folder, ten, monkeypatch
):
    split = open_split(ten)
    scores = retriever.score_dataset(split.features, split.captions)
    folds = five_fold_metrics(scores, split.image_of_caption).as_dict()
    everything = retrieval_metrics(scores, split.image_of_caption).as_dict()
    pairs = []
    scored = Retriever._scored

    def counted(self, images, texts, progress):
        for part in scored(self, images, texts, progress):
            pairs.append(part.scores.size)
            yield part

    monkeypatch.setattr(Retriever, "_scored", counted)
    command = ["eval", tiny_folder / "model.caan", "--data", ten, "--folds", "--json"]
    assert json.loads(run(*command).out) == folds
    assert sum(pairs) == 2 * sum(np.bincount(split.image_of_caption).tolist())
    assert json.loads(run(*command, "--all-pairs").out) == {"folds": folds, "all": everything}


def test_exported_scores_name_the_images(run, retriever, tiny_folder, ten, tmp_path):
    split = open_split(ten)
    scores = retriever.score_dataset(split.features, split.captions)
    run("eval", tiny_folder / "model.caan", "--data", ten, "--folds", "--export", tmp_path / "scores.csv")
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == "image,caption,score,id" and len(lines) == 1 + scores.size
    image, caption, score, name = lines[1 + 3 * len(split.captions) + 7].split(",")
    assert (image, caption, name) == ("3", "7", "photo 3.jpg")
    assert float(score) == pytest.approx(float(scores[3, 7]), abs=1e-7)
