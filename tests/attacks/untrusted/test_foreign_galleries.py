"""Galleries that came from somebody else: what they name, claim and hold in place of what caan writes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caan.errors import BundleError
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.folder import Part, part_of, read_description, write_description
from caan.runtime.index import Images, delete_items, index_items

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def retriever(tiny_folder) -> Retriever:
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime")


@pytest.fixture
def gallery(retriever, tiny_bundle, tmp_path) -> Path:
    features = np.random.default_rng(0).standard_normal((3, 5, 12)).astype(np.float32)
    index_items(retriever, tiny_bundle, Images(retriever, features), tmp_path / "gallery", NAMES)
    return tmp_path / "gallery"


as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to give files to others"
)


@as_root
@pytest.mark.parametrize("whose", ["gallery", "bundle"])
def test_somebody_else_s_file_does_not_choose_the_bundle(refused, run, gallery, tiny_bundle, whose):
    assert run("search", gallery, "w1").code == 0
    file = gallery / "gallery.json" if whose == "gallery" else tiny_bundle / "manifest.json"
    os.chown(file, 12345, 12345)
    refused("search", gallery, "w1", says=[f"{file} belongs to another user", "name it with --bundle"])
    assert run("search", gallery, "w1", "--bundle", tiny_bundle).code == 0


IDS = {
    "numbers": b'1\n"b"\n"c"\n',
    "nothing": b'null\n"b"\n"c"\n',
    "lists": b'["a"]\n"b"\n"c"\n',
    "objects": b'{"a": 1}\n"b"\n"c"\n',
    "half a character": b'"\\ud800"\n"b"\n"c"\n',
    "bytes that are no text": b'"\xff"\n"b"\n"c"\n',
    "no JSON": b"a\nb\nc\n",
    "a list's end": b'"a"]\n"b"\n["c"\n',
    "depth": b"[" * 100_000,
}


def with_ids(gallery: Path, content: bytes) -> Path:
    """The gallery with other ids, sealed as if caan had written them."""
    (gallery / "ids.jsonl").write_bytes(content)
    write_description(gallery, replace(read_description(gallery), ids=part_of(content)))
    return gallery


@pytest.mark.parametrize("kind", IDS)
def test_ids_that_are_no_texts(refused, gallery, kind):
    says = ["ids.jsonl does not hold one text a line", "run caan index again with --overwrite"]
    refused("search", with_ids(gallery, IDS[kind]), "w1", says=says)


def test_two_items_of_one_id(refused, gallery):
    refused("search", with_ids(gallery, b'"a"\n"b"\n"a"\n'), "w1", says=["ids.jsonl gives two items the same id"])


def test_a_deleted_item_s_id_may_be_another_s(gallery):
    delete_items(gallery, ["a"])
    assert Gallery.open(with_ids(gallery, b'"b"\n"b"\n"c"\n')).ids == ["b", "b", "c"]


@pytest.mark.parametrize("name", ["lengths", "ids"])
def test_a_file_that_claims_more_than_there_is_memory(gallery, name):
    description = read_description(gallery)
    claimed = Part(1 << 62, getattr(description, name).sha256)
    write_description(gallery, replace(description, **{name: claimed}))
    with pytest.raises(BundleError, match=rf"{name}\.(bin|jsonl) is truncated"):
        Gallery.open(gallery)


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_states_that_claim_more_than_there_is(gallery, size):
    description = read_description(gallery)
    write_description(gallery, replace(description, columns=size))
    with pytest.raises(BundleError, match=r"states\.bin"):
        Gallery.open(gallery)


@pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")
@pytest.mark.parametrize("name", ["gallery.json", "states.bin", "lengths.bin", "ids.jsonl"])
def test_a_pipe_in_a_file_s_place(refused, gallery, name):
    (gallery / name).unlink()
    os.mkfifo(gallery / name)
    before = json.dumps(sorted(path.name for path in gallery.iterdir()))
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Gallery.open(gallery)
    assert json.dumps(sorted(path.name for path in gallery.iterdir())) == before
    shutil.rmtree(gallery)
