"""`caan inspect GALLERY`: a gallery's contents as text and JSON."""

import json
import shutil

import numpy as np
import pytest

from caan.runtime import Gallery, Retriever


@pytest.fixture
def gallery(tiny_folder, tmp_path):
    """Nine images of 1 to 5 regions, two of them deleted, and their bundle beside them."""
    shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan")
    retriever = Retriever.open(tmp_path / "model.caan")
    lengths = [1, 2, 3, 4, 5, 5, 5, 5, 5]
    features = np.random.default_rng(0).standard_normal((9, 5, 12)).astype(np.float32)
    made = Gallery.create(tmp_path / "gallery", retriever, features, ids=list("abcdefghi"), lengths=lengths)
    return made.delete(["a", "c"])


def test_json_says_it_all(run, gallery, tmp_path):
    result = json.loads(run("inspect", tmp_path / "gallery", "--json").out)
    row = gallery.states.shape[1] * 2
    assert result == {
        "gallery": str(tmp_path / "gallery"), "format": "caan-gallery", "version": 3, "kind": "image", "items": 7,
        "deleted": 2, "rows": 35, "longest": 5, "dtype": "float16", "columns": gallery.states.shape[1],
        "compact": False, "accuracy": None, "sketch": None, "curve": None, "ids": True, "blocks": 1,
        "encoder": gallery.encoder,
        "bundle": str(tmp_path / "model.caan"), "bundle_not_used": None, "precision": "fp32",
        "files": {"states.bin": 35 * row, "lengths.bin": 36, "ids.jsonl": 36}, "reclaimable": 4 * row,
        "interrupted_append": False,
    }  # fmt: skip


def test_text_names_what_matters(run, gallery, tmp_path):
    done = run("inspect", tmp_path / "gallery")
    assert done.code == 0
    text = " ".join(done.out.split())
    for part in (
        "holds 7 images of up to 5 regions",
        "ids yes",
        f"states float16, 35 rows (regions) × {gallery.states.shape[1]} columns",
        "model.caan, fp32",
        "deleted 2 items",
        "caan compact",
    ):
        assert part in text, (part, text)


def test_a_gallery_without_its_bundle_is_shown_too(run, gallery, tmp_path):
    (tmp_path / "model.caan").rename(tmp_path / "moved.caan")
    result = json.loads(run("inspect", tmp_path / "gallery", "--json").out)
    assert result["bundle"] is None and "is no longer at" in result["bundle_not_used"]
    assert "is no longer at" in " ".join(run("inspect", tmp_path / "gallery").out.split())


def test_galleries_that_can_not_be_shown(refused, gallery, tmp_path):
    refused("inspect", "gallery", "--layers", "scorer", says=["--layers is for bundles", "gallery is a gallery"])
    (tmp_path / "gallery" / "lengths.bin").write_bytes(b"")
    refused("inspect", "gallery", says=["lengths.bin is truncated", "caan index again"])
