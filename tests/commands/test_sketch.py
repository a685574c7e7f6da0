"""`caan sketch`, and what other commands say of sketches."""

import json
import shutil

import numpy as np
import pytest

from caan.bundle import write_manifest
from caan.errors import BundleError
from caan.runtime import Gallery, Retriever
from caan.sketch import FILES
from tests.conftest import tree, write_tiny_data
from tests.runtime.sketches.conftest import features, retriever, sketched_folder  # noqa: F401


@pytest.fixture
def data(tmp_path):
    write_tiny_data(tmp_path / "data", images=60, split="train")
    write_tiny_data(tmp_path / "data", images=30, split="dev", seed=1)
    return tmp_path / "data"


def test_a_bundle_gets_a_sketch_that_inspect_shows(run, tiny_bundle, data):
    done = run("sketch", tiny_bundle, "--data", data, "--columns", "32", "--calibration", "3")
    assert done.code == 0, done
    assert f"{tiny_bundle}: a sketch of 32 bytes an item" in done.out
    assert "text → image: 99% of the exact best" in done.out and "image → text: 99%" in done.out
    record = json.loads((tiny_bundle / "manifest.json").read_text())["sketch"]
    assert (record["columns"], record["calibration"], record["split"]) == (32, 3, "train")
    assert "32 bytes an item, 3 calibration items of data train" in run("inspect", tiny_bundle).out


def test_the_same_data_give_the_same_sketch_and_another_seed_another(run, tiny_bundle, data):
    def identity(*options):
        run("sketch", tiny_bundle, "--data", data, *options)
        return Retriever.open(tiny_bundle).backend.model.sketch.identity

    first = identity()
    assert identity() == first != identity("--seed", "1")


def test_a_gallery_gets_sketches_and_is_measured(run, sketched_folder, features, tmp_path):  # noqa: F811
    np.save(tmp_path / "images.npy", features)
    gallery = tmp_path / "gallery"
    bundle = sketched_folder / "model.caan"
    assert run("index", bundle, tmp_path / "images.npy", "-o", gallery, "--no-sketches").code == 0
    assert Gallery.open(gallery).sketches is None
    done = run("sketch", gallery)
    assert done.code == 0 and "sketched, 300 items of 16 bytes" in done.out
    assert "99% of the best 10:" in done.out
    before = tree(gallery)
    assert "sketches are kept" in run("sketch", gallery).out
    assert tree(gallery) == before  # measured already
    assert run("sketch", gallery, "--measure", "--pairs", "9000").code == 0
    curve = Gallery.open(gallery).sketches.curve
    assert (curve.queries, curve.sample) == (30, 300)
    done = run("search", gallery, "w1 w2", "-k", "2", "--recall", "0.5")
    assert done.code == 0 and len(done.out.splitlines()) == 2
    assert "of 300 by their sketches; recall" in done.err
    assert "sketches 16 bytes an item; recall, measured with" in " ".join(run("inspect", gallery).out.split())


def test_mistakes_are_refused(refused, sketched_folder, tiny_bundle, features, data, tmp_path):  # noqa: F811
    np.save(tmp_path / "images.npy", features[:30])
    Gallery.create(tmp_path / "plain", Retriever.open(tiny_bundle), features[:30])
    refused("sketch", tiny_bundle, says=["add --data DIR"])
    refused("sketch", tiny_bundle, "--data", "data", "--columns", "20", says=["multiple of 16, not 20"])
    refused("sketch", tiny_bundle, "--data", "data", "--calibration", "40", says=["40 calibration items", "60 images"])
    refused("sketch", tiny_bundle, "--data", "data", "--calibration-split", "none", says=["none_ims.npy"])
    refused("sketch", "plain", "--columns", "32", says=["--columns is for a bundle, and plain is not one"])
    refused("sketch", "plain", "--measure", "--no-measure", says=["give one of --measure and --no-measure"])
    refused("sketch", "plain", says=["model.caan has no sketch; make one: caan sketch"])
    refused("sketch", "data", says=["data is not a gallery"])
    refused("search", "plain", "w1", "--recall", "0.9", says=["plain has no sketches", "add them: caan sketch"])
    refused("search", "plain", "w1", "--recall", "1.5", says=["recall is 1.5; ask for more than 0, at most 1"])
    refused("search", "plain", "w1", "--recall", "0.9", "--candidates", "20", says=["not both"])


@pytest.mark.parametrize("name", sorted(FILES))
def test_damaged_sketches_of_a_bundle_are_refused(sketched_folder, features, tmp_path, name):  # noqa: F811
    bundle = tmp_path / "model.caan"
    shutil.copytree(sketched_folder / "model.caan", bundle)
    file = bundle / "sketch" / f"{name}.npy"
    manifest = json.loads((bundle / "manifest.json").read_text())
    array = np.load(file)
    for content in (array[:-1], array.astype(np.float64), None):
        if content is None:
            file.write_bytes(b"no array")
        else:
            np.save(file, content)
        write_manifest(bundle, manifest)
        opened = Retriever.open(bundle)
        with pytest.raises(BundleError, match=r"sketch.*make it again: caan sketch .* --data DIR"):
            opened.sketch(opened.encode_images(features[:20]))


def test_a_manifest_without_one_of_the_files_is_refused(sketched_folder, tmp_path):  # noqa: F811
    bundle = tmp_path / "model.caan"
    shutil.copytree(sketched_folder / "model.caan", bundle)
    (bundle / "sketch" / "steps.npy").unlink()
    write_manifest(bundle, json.loads((bundle / "manifest.json").read_text()))
    with pytest.raises(BundleError, match=r"does not list sketch/steps.npy; make it again"):
        Retriever.open(bundle)


def test_an_export_with_data_gives_a_sketch(run, traced, tiny_folder, tmp_path):
    write_tiny_data(tmp_path / "data", images=110, split="train")
    write_tiny_data(tmp_path / "data", images=20)
    options = ["export", tiny_folder / "model.pt", "-o", tmp_path / "m.caan", "--data", tmp_path / "data"]
    done = run(*options)
    assert done.code == 0 and "a sketch of 64 bytes an item" in done.out
    done = run(*options, "--overwrite", "--no-sketch")
    assert "sketch" not in done.out and not (tmp_path / "m.caan" / "sketch").exists()
