"""The bundle: a written one can be opened, and a reader sees the old one or the new one, never a mixture."""

import json
import threading

import pytest

from caan._files import atomic_folder
from caan.bundle import GRAPHS, find_bundle, graph_file, normalizes_images, open_bundle, write_manifest
from caan.errors import BundleError
from caan.runtime import Retriever

SIZES = {"region_dim": 2, "embed_dim": 2, "attention_dim": 2, "vocab_size": 5}


def fill(folder, mark, precisions=("fp32",)):
    """Write a small bundle that no backend could run; `mark` is the content of every file."""
    (folder / "onnx").mkdir(parents=True)
    for precision in precisions:
        for graph in GRAPHS:
            (folder / graph_file(graph, precision)).write_text(f"{graph} {mark}")
    (folder / "vocab.json").write_text(mark)
    write_manifest(
        folder,
        {
            "config": {**SIZES, "mark": mark},
            "tokenizer": "whitespace",
            "limits": {"regions": 9, "words": 9},
            "precisions": {precision: {} for precision in precisions},
        },
    )


def test_a_written_bundle_opens_with_its_manifest(tmp_path):
    fill(tmp_path / "model.caan", "a", ["fp32", "fp16"])
    bundle = open_bundle(tmp_path / "model.caan")
    assert bundle.config == {**SIZES, "mark": "a"}
    assert bundle.precisions == ["fp32", "fp16"]
    assert bundle.graph("scorer", "fp16").read_text() == "scorer a"


def test_the_manifest_lists_every_file_but_itself(tmp_path):
    fill(tmp_path / "model.caan", "a")
    manifest = json.loads((tmp_path / "model.caan" / "manifest.json").read_text())
    assert (manifest["format"], manifest["version"]) == ("caan-bundle", 1)
    assert sorted(manifest["files"]) == sorted(["vocab.json", *(graph_file(graph, "fp32") for graph in GRAPHS)])
    # SHA-256 of "a"
    digest = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert manifest["files"]["vocab.json"] == {"sha256": digest, "size": 1}
    assert open_bundle(tmp_path / "model.caan").hash_of("vocab.json") == digest


def test_a_graph_of_a_precision_that_is_not_there_names_those_that_are(tmp_path):
    fill(tmp_path / "model.caan", "a", ["fp32", "int8"])
    with pytest.raises(BundleError, match="no precision 'fp16'; it has: fp32, int8"):
        open_bundle(tmp_path / "model.caan").graph("scorer", "fp16")


def test_the_named_bundle_is_found_whether_or_not_it_exists(tmp_path):
    assert find_bundle(tmp_path / "named", tmp_path) == tmp_path / "named"


def test_the_only_bundle_of_a_folder_is_found(tmp_path):
    fill(tmp_path / "model.caan", "a")
    (tmp_path / "other.txt").touch()
    assert find_bundle(None, tmp_path) == tmp_path / "model.caan"


def test_a_bundle_in_the_making_is_not_found(tmp_path):
    with atomic_folder(tmp_path / "model.caan"), pytest.raises(BundleError, match=r"no \*.caan bundle"):
        find_bundle(None, tmp_path)


def test_a_reader_sees_the_old_bundle_or_the_new_one(tmp_path):
    target = tmp_path / "model.caan"
    fill(target, "old")
    seen, failures, done = [], [], threading.Event()

    def poll():
        while not done.is_set():
            try:
                seen.append(open_bundle(target).config["mark"])
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(200):
        with atomic_folder(target, overwrite=True) as folder:
            fill(folder, "old" if number % 2 else "new")
    done.set()
    reader.join()
    assert failures == []
    assert set(seen) == {"old", "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model.caan"]


def test_a_bundle_replaced_while_it_is_opened_is_opened_anew(tiny_folder, tiny_bundle, monkeypatch):
    """A runtime never mixes two models' graphs: the encoder of the old one with the scorer of the new one."""
    from caan.runtime.backends.onnxruntime import encoders as onnx_encoders

    real, opened = onnx_encoders.open_session, []

    def open_session(path, *options, **more):
        if len(opened) == 1:  # between the first graph and the second
            manifest = json.loads((tiny_bundle / "manifest.json").read_text())
            (tiny_bundle / "vocab.json").write_text((tiny_bundle / "vocab.json").read_text() + " ")
            write_manifest(tiny_bundle, manifest)
        opened.append(path.name)
        return real(path, *options, **more)

    monkeypatch.setattr(onnx_encoders, "open_session", open_session)
    Retriever.open(tiny_bundle, "onnxruntime", threads=1)
    assert opened == [f"{graph}.fp32.onnx" for graph in [*GRAPHS, *GRAPHS]]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, True),
        ({"normalize": True}, True),
        ({"normalize": False}, False),
        ({"normalize_images": True, "normalize_texts": False}, True),
        ({"normalize_images": False, "normalize_texts": True}, False),
    ],
)
def test_the_image_encoder_s_norm_has_its_own_switch_where_the_two_differ(config, expected):
    assert normalizes_images(config) is expected
