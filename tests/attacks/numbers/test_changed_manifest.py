"""Hand-edited manifest entries that affect results: refused on opening, whatever the backend."""

import hashlib
import json

import onnx
import pytest

from caan._checksum import CHECKSUM
from caan._text import json_text
from caan.bundle import Bundle, graph_file, open_bundle, write_manifest
from caan.errors import BundleError
from caan.export.graphs import export_graph, graph_specs
from caan.model.caan import CAAN, CaanConfig
from caan.runtime import Retriever
from caan.runtime.backends.scorer_weights import attention_scale
from tests.test_bad_bundle import changed, places

COVERED = ("config", "tokenizer", "opset", "limits")


@pytest.fixture
def manifest(tiny_bundle):
    return json.loads((tiny_bundle / "manifest.json").read_text())


@pytest.fixture
def write(tiny_bundle):
    """As caan writes it: unchanged entries keep their bytes."""
    return lambda content: (tiny_bundle / "manifest.json").write_text(json_text(content) + "\n")


def other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.0001 if isinstance(value, float) else f"{value}x"


def test_every_entry_that_affects_results(tiny_bundle, manifest, write):
    tried = 0
    for place in places(manifest):
        value = manifest
        for key in place:
            value = value[key]
        if not place or place[0] not in COVERED or isinstance(value, dict | list | None):
            continue
        tried += 1
        write(changed(manifest, place, other(value)))
        with pytest.raises(
            BundleError, match=r"manifest\.json does not fit its graphs: it was changed since caan wrote it"
        ):
            open_bundle(tiny_bundle)
    assert tried >= 12


@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
def test_a_changed_attention_scale(tiny_bundle, manifest, write, backend):
    if backend == "native":
        pytest.importorskip("caan_native", reason="needs the package caan_native; make native builds it")
    manifest["config"]["attention_scale"] = 40.0
    write(manifest)
    with pytest.raises(BundleError, match="was changed since caan wrote it"):
        Retriever.open(tiny_bundle, backend)


@pytest.mark.parametrize("checksum", [None, "", 5, "0" * 64, []])
def test_another_checksum(tiny_bundle, manifest, write, checksum):
    write({**manifest, CHECKSUM: checksum})
    with pytest.raises(BundleError, match="was changed since caan wrote it"):
        open_bundle(tiny_bundle)


def test_one_bit_covered_by_the_checksum(tiny_bundle):
    """Spaces too: the checksum is of bytes."""
    path = tiny_bundle / "manifest.json"
    content = path.read_bytes()
    end = content.index(b'  "checksum"')
    assert end < content.index(b'  "files"') and all(content.index(f'  "{key}"'.encode()) < end for key in COVERED)
    for place in range(0, end, 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(BundleError, match=r"manifest\.json"):
            open_bundle(tiny_bundle)
    path.write_bytes(content)
    open_bundle(tiny_bundle)


def test_a_record_may_be_added_to_and_a_bundle_changed_by_caan_gets_another_checksum(tiny_bundle, manifest, write):
    checksum = manifest[CHECKSUM]
    manifest["precisions"]["fp32"]["checks"].append({"what": "a look", CHECKSUM: "0"})
    write({**manifest, "note": "ours"})
    assert open_bundle(tiny_bundle).manifest["note"] == "ours"
    manifest["limits"]["words"] -= 1
    write_manifest(tiny_bundle, manifest)
    assert open_bundle(tiny_bundle).manifest[CHECKSUM] != checksum


def test_an_entry_of_the_same_name_deeper_is_not_the_checksum(tiny_bundle, manifest):
    manifest["config"] = {CHECKSUM: "0" * 64, **manifest["config"]}
    write_manifest(tiny_bundle, manifest)
    assert open_bundle(tiny_bundle).config[CHECKSUM] == "0" * 64


def old_manifest(manifest):
    """An older manifest without a checksum; its seal is not computed by the code under test."""
    del manifest[CHECKSUM]
    covered = {key: manifest[key] for key in COVERED}
    seal = hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
    return {**manifest, "seal": seal}


def test_an_old_manifest_is_compared_with_its_seal(tiny_bundle, manifest, write):
    old = old_manifest(manifest)
    write(old)
    opened = open_bundle(tiny_bundle)
    (tiny_bundle / "manifest.json").write_text(json.dumps(old))  # a hash of entries, not of bytes
    open_bundle(tiny_bundle)
    for changed_one in ({**old, "opset": 17}, {**old, "seal": None}, {**old, "tokenizer": "x"}):
        write(changed_one)
        with pytest.raises(BundleError, match="was changed since caan wrote it"):
            open_bundle(tiny_bundle)
    write_manifest(tiny_bundle, opened.manifest)  # as every command that changes a bundle does
    manifest = open_bundle(tiny_bundle).manifest
    assert "seal" not in manifest and CHECKSUM in manifest


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.9999998, -4.0, 40.0, 1e38])
def test_without_a_checksum_the_scale_is_compared_with_the_graph(tiny_bundle, manifest, write, scale):
    """As in the oldest bundles, without seal or checksum."""
    pytest.importorskip("caan_native", reason="needs the package caan_native; make native builds it")
    del manifest[CHECKSUM]
    write(manifest)
    Retriever.open(tiny_bundle, "native")
    manifest["config"]["attention_scale"] = scale
    write(manifest)
    with pytest.raises(BundleError, match="the scorer does not multiply by its config"):
        Retriever.open(tiny_bundle, "native")
    Retriever.open(tiny_bundle, "onnxruntime")  # whose graph holds the scale


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1.0, -3.5])
def test_the_graph_of_every_scale_is_understood(tmp_path, scale):
    model = CAAN(CaanConfig(6, 5, 4, 3, 24, 5, scale))
    (scorer,) = [spec for spec in graph_specs(model) if spec.name == "scorer"]
    (tmp_path / "onnx").mkdir()
    onnx.save(export_graph(scorer, model), tmp_path / graph_file("scorer", "fp32"))
    manifest = {"config": {"attention_scale": scale}, "files": {graph_file("scorer", "fp32"): {}}}
    bundle = Bundle(tmp_path, manifest, ())
    assert attention_scale(bundle) == scale
    bundle.config["attention_scale"] = scale + 0.5
    with pytest.raises(BundleError, match="does not multiply"):
        attention_scale(bundle)
