"""Bundles that are damaged, unsafe or newer: each is refused with a BundleError, and nothing outside is touched."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.bundle import open_bundle, write_manifest
from caan.errors import BundleError, InputError
from caan.runtime import Retriever

GRAPH = "onnx/scorer.fp32.onnx"
ENCODER = "onnx/image_encoder.fp32.onnx"  # every backend opens it
FILES = ["vocab.json", "onnx/image_encoder.fp32.onnx", "onnx/text_encoder.fp32.onnx", GRAPH]


@pytest.fixture
def manifest(tiny_bundle) -> dict:
    return json.loads((tiny_bundle / "manifest.json").read_text())


@pytest.fixture
def evaluated(refused, tiny_bundle, tiny_data):
    """evaluated(says=…): `caan eval` of the damaged bundle is refused."""
    return lambda says: refused("eval", tiny_bundle, "--data", tiny_data, says=says)


@pytest.fixture
def rewritten(evaluated, tiny_bundle):
    """rewritten(manifest, says=…): the same with this manifest."""

    def check(manifest, says):
        (tiny_bundle / "manifest.json").write_text(json.dumps(manifest, indent=2))
        return evaluated(["manifest.json", *says])

    return check


def test_an_undamaged_bundle_opens(tiny_bundle):
    """The undamaged input of the tests below is accepted."""
    assert open_bundle(tiny_bundle).precisions == ["fp32"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(evaluated, tiny_bundle, name):
    (tiny_bundle / name).unlink()
    evaluated([name, "missing from the bundle", "copy the bundle again"])


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_found(evaluated, tiny_bundle, name):
    content = bytearray((tiny_bundle / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tiny_bundle / name).write_bytes(content)
    evaluated([name, "was changed: its SHA-256 is not the manifest's", "copy the bundle again"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kept", [0, -1])
def test_a_truncated_file_is_found(evaluated, tiny_bundle, name, kept):
    whole = (tiny_bundle / name).read_bytes()
    (tiny_bundle / name).write_bytes(whole[:kept])
    evaluated([name, f"the manifest says {len(whole)}", "copy the bundle again"])


def test_a_folder_in_a_files_place(evaluated, tiny_bundle):
    (tiny_bundle / GRAPH).unlink()
    (tiny_bundle / GRAPH).mkdir()
    evaluated([GRAPH, "missing from the bundle"])


@pytest.mark.parametrize(
    "name", ["../secret", "onnx/../../secret", "onnx\\..\\secret", "C:secret", "a\0b", "x" * 5_000]
)
def test_a_name_outside_the_bundle(rewritten, manifest, tmp_path, name):
    (tmp_path / "secret").write_text("x")
    manifest["files"][name] = manifest["files"]["vocab.json"]
    rewritten(manifest, ["outside the bundle", "do not trust this bundle"])


@pytest.mark.parametrize("name", ["../nowhere", "/nowhere", "onnx/../vocab.json"])
def test_a_name_that_climbs_is_refused_wherever_it_leads(rewritten, manifest, name):
    manifest["files"][name] = manifest["files"]["vocab.json"]
    rewritten(manifest, ["outside the bundle", "do not trust this bundle"])


def test_an_absolute_name(rewritten, manifest, tmp_path):
    (tmp_path / "secret").write_text("x")
    manifest["files"][str(tmp_path / "secret")] = manifest["files"]["vocab.json"]
    rewritten(manifest, [str(tmp_path / "secret"), "outside the bundle"])


def test_a_link_to_a_file_of_other_content(evaluated, tiny_bundle, tmp_path):
    whole = (tiny_bundle / "vocab.json").read_text()
    (tmp_path / "vocab.json").write_text(whole.replace("w1", "w9"))
    (tiny_bundle / "vocab.json").unlink()
    (tiny_bundle / "vocab.json").symlink_to(tmp_path / "vocab.json")
    evaluated(["vocab.json", "was changed: its SHA-256 is not the manifest's"])


def test_a_linked_folder_that_lacks_a_file(evaluated, tiny_bundle, tmp_path):
    shutil.move(tiny_bundle / "onnx", tmp_path / "onnx")
    (tiny_bundle / "onnx").symlink_to(tmp_path / "onnx")
    (tmp_path / GRAPH).unlink()
    evaluated([GRAPH, "missing from the bundle"])


def test_a_link_to_itself(evaluated, tiny_bundle):
    (tiny_bundle / "vocab.json").unlink()
    (tiny_bundle / "vocab.json").symlink_to("vocab.json")
    evaluated(["vocab.json"])


def test_a_bundle_reached_through_a_link_opens(tiny_bundle, tmp_path):
    (tmp_path / "link.caan").symlink_to(tiny_bundle)
    assert open_bundle(tmp_path / "link.caan").precisions == ["fp32"]


def test_a_graph_that_the_manifest_does_not_list(rewritten, manifest):
    del manifest["files"][GRAPH]
    rewritten(manifest, [f"does not list {GRAPH}", "export the checkpoint again"])


def test_a_precision_without_graphs(rewritten, manifest):
    manifest["precisions"]["fp16"] = {}
    rewritten(manifest, ["does not list onnx/image_encoder.fp16.onnx"])


@pytest.mark.parametrize("text", ["", "{", "manifest", "[" * 100_000, '{"a": 1' + "0" * 5_000 + "}", "\udc80"])
def test_a_manifest_that_is_not_json(evaluated, tiny_bundle, text):
    (tiny_bundle / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    evaluated(["manifest.json can't be read as JSON", "export the checkpoint again"])


@pytest.mark.parametrize("content", [None, [], 5, "caan-bundle", {}, {"format": "caan-gallery"}])
def test_json_that_is_not_a_manifest(rewritten, content):
    rewritten(content, ["is not a caan-bundle manifest"])


@pytest.mark.parametrize("version", [2, 99, None, "1", 1.0, True, 0, -1])
def test_another_format_version(rewritten, manifest, version):
    rewritten({**manifest, "version": version}, [f"format version {version}", "reads up to 1", "update caan"])


@pytest.mark.parametrize("key", ["config", "tokenizer", "limits", "files", "precisions"])
@pytest.mark.parametrize("value", [None, 5, ["x"]])
def test_a_manifest_entry_of_the_wrong_type(rewritten, manifest, key, value):
    rewritten({**manifest, key: value}, [f"no valid '{key}'", "export the checkpoint again"])


@pytest.mark.parametrize("key", ["format", "version", "config", "tokenizer", "limits", "files", "precisions"])
def test_a_manifest_that_lacks_an_entry(rewritten, manifest, key):
    del manifest[key]
    rewritten(manifest, [])


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("config", "region_dim"),
        ("config", "embed_dim"),
        ("config", "attention_dim"),
        ("config", "vocab_size"),
        ("limits", "regions"),
        ("limits", "words"),
    ],
)
@pytest.mark.parametrize("value", [None, "12", 1.5, 0, -100, True])
def test_an_impossible_size(rewritten, manifest, part, key, value):
    manifest[part][key] = value
    rewritten(manifest, [f"no valid '{part}.{key}'", "export the checkpoint again"])


@pytest.mark.parametrize("key", ["region_dim", "embed_dim", "attention_dim"])
def test_a_size_that_is_not_the_graphs(evaluated, tiny_bundle, manifest, key):
    manifest["config"][key] += 1
    (tiny_bundle / "manifest.json").write_text(json.dumps(manifest, indent=2))
    evaluated(["model.caan", "does not fit its graphs", "export the checkpoint again"])


@pytest.mark.parametrize(
    ("entry", "lacks"),
    [
        *((entry, "hash") for entry in (None, 5, "hash", {}, {"sha256": None, "size": 5}, {"size": 5})),
        *(
            ({"sha256": "x", **size}, "size")
            for size in ({}, {"size": None}, {"size": "5"}, {"size": -1}, {"size": True})
        ),
    ],
)
def test_a_file_entry_without_hash_or_size(rewritten, manifest, entry, lacks):
    manifest["files"]["vocab.json"] = entry
    rewritten(manifest, [f"has no {lacks} for 'vocab.json'", "export the checkpoint again"])


def test_a_vocabulary_larger_than_the_embedding(evaluated, tiny_bundle, manifest):
    vocabulary = json.loads((tiny_bundle / "vocab.json").read_text())
    vocabulary["words"]["extra"] = 24
    (tiny_bundle / "vocab.json").write_text(json.dumps(vocabulary))
    write_manifest(tiny_bundle, manifest)
    evaluated(["vocab.json", "ids up to 24", "only 24 rows", "export the checkpoint again"])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "caan-vocabulary", "words": {}, "tokenizer": ["x"]}'])
def test_an_invalid_vocabulary(evaluated, tiny_bundle, manifest, content):
    (tiny_bundle / "vocab.json").write_text(content)
    write_manifest(tiny_bundle, manifest)
    evaluated(["vocab.json"])


def test_an_invalid_graph(evaluated, tiny_bundle, manifest):
    (tiny_bundle / ENCODER).write_bytes(b"no graph")
    write_manifest(tiny_bundle, manifest)
    evaluated(["ONNX Runtime", "can't load", ENCODER])


def test_a_folder_that_is_not_a_bundle(refused, tmp_path, tiny_data):
    (tmp_path / "empty.caan").mkdir()
    refused("eval", "empty.caan", "--data", tiny_data, says=["empty.caan is not a bundle", "caan-export model.pt"])
    refused("eval", "nowhere.caan", "--data", tiny_data, says=["nowhere.caan is not a bundle", "caan-export model.pt"])


def test_no_bundle_here(refused, tiny_data):
    refused("eval", "--data", tiny_data, says=["no *.caan bundle in", "make one with: caan-export model.pt"])
    refused("bench", says=["no *.caan bundle in", "make one with: caan-export model.pt"])


def test_two_bundles_here_and_none_named(refused, tiny_bundle, tiny_data, tmp_path):
    shutil.copytree(tiny_bundle, tmp_path / "other.caan")
    says = ["several bundles here (model.caan, other.caan)", "name the one you mean"]
    refused("eval", "--data", tiny_data, says=says)
    refused("bench", says=says)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """Every place in a JSON value, as a path of keys."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))


def changed(value, path, new):
    """A copy of a JSON value with another one at a place."""
    return {**value, path[0]: changed(value[path[0]], path[1:], new)} if path else new


@settings(max_examples=100)
@given(data=st.data())
def test_a_mutated_manifest_opens_or_is_a_bundle_error(tiny_folder, tmp_path, data):
    folder = tmp_path / "mutated.caan"
    if not folder.exists():
        shutil.copytree(tiny_folder / "model.caan", folder)
    manifest = json.loads((tiny_folder / "model.caan" / "manifest.json").read_text())
    manifest = changed(manifest, data.draw(st.sampled_from(list(places(manifest)))), data.draw(JSON))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    try:
        open_bundle(folder)
    except BundleError as error:
        assert "mutated.caan" in str(error)
        return
    try:
        retriever = Retriever.open(folder)
        retriever.score_matrix(retriever.encode_images(np.ones((2, 5, 12))), ["w1 w2"])
    except InputError as error:
        assert str(error)


@given(names=st.dictionaries(st.text(), JSON, min_size=1, max_size=3))
def test_any_file_name_is_inside_or_a_bundle_error(tiny_folder, tmp_path, names):
    folder = tmp_path / "named.caan"
    if not folder.exists():
        shutil.copytree(tiny_folder / "model.caan", folder)
    manifest = json.loads((tiny_folder / "model.caan" / "manifest.json").read_text())
    manifest["files"] |= names
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    with pytest.raises(BundleError):
        open_bundle(folder)


@settings(max_examples=200)
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_a_manifest_with_any_byte_changed_opens_or_is_a_bundle_error(tiny_folder, tmp_path, position, byte):
    folder = tmp_path / "changed.caan"
    if not folder.exists():
        shutil.copytree(tiny_folder / "model.caan", folder)
    content = bytearray((tiny_folder / "model.caan" / "manifest.json").read_bytes())
    content[int(position * len(content))] = byte
    (folder / "manifest.json").write_bytes(content)
    try:
        open_bundle(folder)
    except BundleError as error:
        assert "changed.caan" in str(error)
