"""The calibration cache: hits, misses, and damaged files."""

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest

from caan.bundle import GRAPHS
from caan.calibration import cache
from caan.calibration import calibrate as module
from caan.calibration.calibrate import calibrate
from caan.calibration.pairs import SampleSize
from caan.errors import BundleError, CaanWarning


@pytest.fixture
def runs(monkeypatch) -> list:
    """One entry per graph run."""
    seen, original = [], module.observe

    def spy(*arguments):
        seen.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, "observe", spy)
    return seen


@pytest.fixture
def silent():
    """Within this test, a CaanWarning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaanWarning)
        yield


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_the_second_time_no_graph_is_run(bundle, make_split, cache_folder, runs, silent):
    dataset = make_split()
    first = calibrate(bundle, dataset, method="mse", seed=1)
    assert runs
    runs.clear()
    again = calibrate(bundle, dataset, method="mse", seed=1)
    assert runs == []
    assert (again.ranges, again.record) == (first.ranges, first.record)
    assert np.array_equal(again.held_out, first.held_out)


def test_the_same_data_under_another_name_hit(bundle, make_split, cache_folder, runs, tmp_path):
    dataset = make_split()
    first = calibrate(bundle, dataset, method="min-max")
    runs.clear()
    moved = dataclasses.replace(dataset, folder=tmp_path / "copy", split="dev", ids=None)
    again = calibrate(bundle, moved, method="min-max")
    assert runs == [] and again.ranges == first.ranges
    assert (again.record["data"], again.record["split"]) == ("copy", "dev")


def with_another_feature(dataset):
    features = dataset.features.copy()
    features[-1, -1, -1] += 1e-3
    return {"dataset": dataclasses.replace(dataset, features=features)}


def with_another_caption(dataset):
    return {"dataset": dataclasses.replace(dataset, captions=[*dataset.captions[:-1], "w1 w1 w1"])}


def with_another_truth(dataset):
    return {"dataset": dataclasses.replace(dataset, image_of_caption=dataset.image_of_caption[::-1].copy())}


@pytest.mark.parametrize(
    "change",
    [
        with_another_feature,
        with_another_caption,
        with_another_truth,
        lambda dataset: {"method": "percentile"},
        lambda dataset: {"seed": 1},
        lambda dataset: {"size": SampleSize(20, 4096)},
        lambda dataset: {"size": SampleSize(64, 4095)},
    ],
    ids=["feature", "caption", "truth", "method", "seed", "images", "pairs"],
)
def test_anything_else_misses(bundle, make_split, cache_folder, runs, change):
    arguments = {"dataset": make_split(), "method": "min-max", "seed": 0}
    calibrate(bundle, **arguments)
    runs.clear()
    calibrate(bundle, **{**arguments, **change(arguments["dataset"])})
    assert runs
    assert len(list(cache_folder.iterdir())) == 2


@pytest.mark.parametrize("file", ["vocab.json", *(f"onnx/{name}.fp32.onnx" for name in GRAPHS)])
def test_another_graph_or_vocabulary_misses(bundle, make_split, cache_folder, runs, file):
    dataset = make_split()
    calibrate(bundle, dataset, method="min-max")
    runs.clear()
    files = bundle.manifest["files"]
    manifest = {**bundle.manifest, "files": {**files, file: {**files[file], "sha256": "0" * 64}}}
    other = dataclasses.replace(bundle, manifest=manifest)
    if file == "vocab.json":
        calibrate(other, dataset, method="min-max")
        assert runs
    else:  # there is no graph with this hash
        with pytest.raises(BundleError, match=file):
            calibrate(other, dataset, method="min-max")


def test_another_algorithm_misses(bundle, make_split, cache_folder, runs, monkeypatch):
    dataset = make_split()
    calibrate(bundle, dataset, method="min-max")
    runs.clear()
    monkeypatch.setattr(cache, "ALGORITHM", cache.ALGORITHM + 1)
    calibrate(bundle, dataset, method="min-max")
    assert runs


def with_ranges(change):
    """A file with changed ranges and a matching checksum."""

    def damage(path):
        content = json.loads(path.read_text())
        content["ranges"] = change(content["ranges"])
        path.write_text(json.dumps({**content, "sha256": cache._digest(content["ranges"])}))

    return damage


def with_another_value(path):
    content = json.loads(path.read_text())
    content["ranges"]["image_encoder"]["features"] *= 2
    path.write_text(json.dumps(content))


def without_checksum(path):
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))


def of_another_key(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "key": {**content["key"], "seed": 99}}))


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-40]),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "nested": lambda path: path.write_text("[" * 100_000),
    "a list": lambda path: path.write_text("[]"),
    "another key": of_another_key,
    "another value": with_another_value,
    "no checksum": without_checksum,
    "null": with_ranges(lambda ranges: None),
    "no ranges": with_ranges(lambda ranges: {}),
    "a graph less": with_ranges(lambda ranges: {name: ranges[name] for name in GRAPHS[:2]}),
    "a list of ranges": with_ranges(lambda ranges: {**ranges, "scorer": [1.0]}),
    "a negative range": with_ranges(lambda ranges: {**ranges, "scorer": {"x": -1.0}}),
    "a range of NaN": with_ranges(lambda ranges: {**ranges, "scorer": {"x": float("nan")}}),
    "a range of text": with_ranges(lambda ranges: {**ranges, "scorer": {"x": "1.0"}}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_reported_and_replaced(bundle, make_split, cache_folder, runs, damage):
    dataset = make_split()
    first = calibrate(bundle, dataset, method="min-max")
    path = only_file(cache_folder)
    whole = path.read_bytes()
    damage(path)
    runs.clear()
    with pytest.warns(CaanWarning, match=r"is damaged \(.*calibrating again") as warned:
        again = calibrate(bundle, dataset, method="min-max")
    assert len(warned) == 1 and str(path) in str(warned[0].message)
    assert runs and again.ranges == first.ranges
    assert only_file(cache_folder) == path and path.read_bytes() == whole


def test_a_cache_that_can_not_be_written_does_not_fail_the_job(bundle, make_split, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "file"))
    with pytest.warns(CaanWarning, match="calibration can't be saved") as warned:
        result = calibrate(bundle, make_split(), method="min-max")
    assert len(warned) == 1  # the file is missing, not damaged
    assert set(result.ranges) == set(GRAPHS)


def test_a_folder_in_the_file_s_place_does_not_fail_the_job(bundle, make_split, cache_folder):
    dataset = make_split()
    first = calibrate(bundle, dataset, method="min-max")
    path = only_file(cache_folder)
    path.unlink()
    (path / "inside").mkdir(parents=True)
    with pytest.warns(CaanWarning) as warned:
        again = calibrate(bundle, dataset, method="min-max")
    assert len(warned) == 2 and again.ranges == first.ranges
    shutil.rmtree(path)


def test_a_full_disk_leaves_no_half_file(cache_folder, monkeypatch):
    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.Path, "write_bytes", full)
    with pytest.warns(CaanWarning, match="disk of .* is full"):
        cache.store({"seed": 0}, {name: {} for name in GRAPHS})
    assert list(cache_folder.iterdir()) == []
