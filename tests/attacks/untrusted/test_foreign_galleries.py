"""Galleries of another origin: their names, claims and altered content."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from caan.errors import BundleError
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.description import Part
from caan.runtime.galleries.folder import part_of, read_description, write_description
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
    """The gallery with other ids and a valid checksum."""
    (gallery / "ids.jsonl").write_bytes(content)
    write_description(gallery, replace(read_description(gallery), ids=part_of(content)))
    return gallery


def format_2(text: str) -> str:
    """An older description, with a hash of entries as Python prints them in place of a checksum."""
    content = json.loads(text)
    del content["checksum"]
    content["version"] = 2
    seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "sha256": seal}, indent=1)


def another_digit(text: str, key: str) -> str:
    before, after = text.split(f'"{key}": "')
    return f'{before}"{key}": "{"1" if after[0] == "0" else "0"}{after[1:]}'


# gallery.json → an altered one, which opens or doesn't.
DESCRIPTIONS: dict[str, tuple[bool, Callable[[str], str]]] = {
    "as written": (True, str),
    "a byte order mark": (True, lambda text: f"\ufeff{text}"),
    "format 2": (True, format_2),
    "format 2, printed otherwise": (True, lambda text: json.dumps(json.loads(format_2(text)))),
    "format 2, another entry": (False, lambda text: format_2(text).replace('"columns": 41', '"columns": 40')),
    "format 2, no seal": (False, lambda text: format_2(text).rpartition(",")[0] + "}"),
    "format 2, a checksum": (False, lambda text: text.replace('"version": 3', '"version": 2')),
    "format 3, a seal": (False, lambda text: format_2(text).replace('"version": 2', '"version": 3')),
    "printed otherwise": (False, lambda text: json.dumps(json.loads(text))),
    "one space more": (False, lambda text: text.replace('"version": 3', '"version":  3')),
    "another entry": (False, lambda text: text.replace('"columns": 41', '"columns": 40')),
    "another checksum": (False, lambda text: another_digit(text, "checksum")),
    "a longer checksum": (False, lambda text: text.replace('"\n}', '0"\n}')),
    "no checksum": (False, lambda text: text.split(',\n "checksum"')[0] + "\n}\n"),
}


def with_description(gallery: Path, kind: str) -> bool:
    """Change gallery.json; whether it opens."""
    opens, change = DESCRIPTIONS[kind]
    path = gallery / "gallery.json"
    path.write_text(change(path.read_text()))
    return opens


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_an_altered_description(refused, run, gallery, kind):
    if with_description(gallery, kind):
        assert run("search", gallery, "w1").code == 0
    else:
        says = [
            "gallery.json was changed: its SHA-256 is not the one it holds",
            "run caan index again with --overwrite",
        ]
        refused("search", gallery, "w1", says=says)


@pytest.mark.parametrize("kind", IDS)
def test_ids_that_are_not_text(refused, gallery, kind):
    says = ["ids.jsonl does not hold one text a line", "run caan index again with --overwrite"]
    refused("search", with_ids(gallery, IDS[kind]), "w1", says=says)


def test_two_items_of_one_id(refused, gallery):
    refused("search", with_ids(gallery, b'"a"\n"b"\n"a"\n'), "w1", says=["ids.jsonl gives two items the same id"])


def test_a_deleted_item_s_id_may_be_reused(gallery):
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
def test_a_pipe_in_place_of_a_file(refused, gallery, name):
    (gallery / name).unlink()
    os.mkfifo(gallery / name)
    before = json.dumps(sorted(path.name for path in gallery.iterdir()))
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        Gallery.open(gallery)
    assert json.dumps(sorted(path.name for path in gallery.iterdir())) == before
    shutil.rmtree(gallery)
