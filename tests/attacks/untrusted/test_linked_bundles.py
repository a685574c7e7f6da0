"""Bundles of links into a content-addressed store: they open if hashes match; nothing writes into the store."""

import json
import shutil
from pathlib import Path

import pytest

from caan.bundle import change_bundle, open_bundle
from caan.errors import BundleError, OutputError
from caan.runtime import Retriever
from tests.conftest import tree


@pytest.fixture
def linked(tiny_bundle, tmp_path) -> Path:
    """The tiny bundle as in a hub's cache: snapshots/REVISION/FILE are links to blobs/HASH."""
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    store = tmp_path / "models--who--model.caan"
    snapshot = store / "snapshots" / "0123abc"
    (store / "blobs").mkdir(parents=True)
    for name in [*manifest["files"], "manifest.json"]:
        blob = store / "blobs" / manifest["files"].get(name, {"sha256": "manifest"})["sha256"]
        shutil.move(tiny_bundle / name, blob)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(Path(*[".."] * (2 + name.count("/"))) / "blobs" / blob.name)
    shutil.rmtree(tiny_bundle)
    return snapshot


def test_it_opens_and_searches(run, linked, tiny_data):
    done = run("eval", linked, "--data", tiny_data)
    layout = "data test, 6 images × 30 captions: one row per image, 5 captions each\n"
    assert (done.code, done.err) == (0, layout)


@pytest.mark.parametrize("name", ["vocab.json", "onnx/scorer.fp32.onnx", "scorer_weights.npy"])
def test_a_link_to_other_content_is_refused_by_name(refused, linked, tiny_data, name):
    blob = (linked / name).resolve()
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 1
    blob.write_bytes(content)
    refused("eval", linked, "--data", tiny_data, says=[name, "was changed: its SHA-256 is not the manifest's"])


@pytest.mark.parametrize("target", ["nowhere", "vocab.json"])  # one that is lost, one to itself
def test_a_link_to_nothing(refused, linked, tiny_data, target):
    (linked / "vocab.json").unlink()
    (linked / "vocab.json").symlink_to(target)
    refused("eval", linked, "--data", tiny_data, says=["vocab.json is missing from the bundle"])


def test_links_do_not_allow_names_outside(refused, linked, tiny_data):
    """A link may point anywhere, a name in the manifest may not."""
    manifest = json.loads((linked / "manifest.json").read_text())
    manifest["files"]["../../blobs/manifest"] = manifest["files"]["vocab.json"]
    (linked / "manifest.json").write_text(json.dumps(manifest))
    refused("eval", linked, "--data", tiny_data, says=["outside the bundle", "do not trust this bundle"])


def test_an_engine_is_not_built_into_the_store(refused, linked):
    pytest.importorskip("onnx", reason="needs the extra engine")
    refused("build-engine", linked, "--fp16", says=["is a link to a file elsewhere", f"cp -rL {linked} COPY.caan"])


def test_a_change_leaves_the_store_alone(linked):
    before = tree(linked.parents[1])
    with pytest.raises(OutputError, match="change a copy"):
        change_bundle(linked, lambda folder, manifest: None)
    assert tree(linked.parents[1]) == before


def test_a_copy_without_links_is_changed(linked, tmp_path):
    copy = Path(shutil.copytree(linked, tmp_path / "copy.caan"))
    change_bundle(copy, lambda folder, manifest: manifest.update(note="mine"))
    assert open_bundle(copy).manifest["note"] == "mine"


def test_the_verified_bytes_are_the_ones_used(linked, monkeypatch):
    """The blob is replaced between check and use: the loaded bytes themselves are verified."""
    from caan import bundle as bundle_module

    blob = (linked / "onnx" / "scorer.fp32.onnx").resolve()
    real = bundle_module._verify

    def verify_and_exchange(folder, manifest):
        real(folder, manifest)
        blob.write_bytes(blob.read_bytes() + b"\0")

    monkeypatch.setattr(bundle_module, "_verify", verify_and_exchange)
    with pytest.raises(BundleError, match=r"scorer\.fp32\.onnx is not the file this bundle was opened with"):
        Retriever.open(linked, "onnxruntime")
