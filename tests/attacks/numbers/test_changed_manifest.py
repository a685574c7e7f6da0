"""Numbers of a manifest that decide results, changed by hand: refused at opening, whatever the backend."""

import json

import onnx
import pytest

from caan.bundle import Bundle, graph_file, open_bundle, seal_of, write_manifest
from caan.errors import BundleError
from caan.export.graphs import export_graph, graph_specs
from caan.model.caan import CAAN, CaanConfig
from caan.runtime import Retriever
from caan.runtime.backends.scorer_weights import attention_scale
from tests.test_bad_bundle import changed, places

SEALED = ("config", "tokenizer", "opset", "limits")


@pytest.fixture
def manifest(tiny_bundle):
    return json.loads((tiny_bundle / "manifest.json").read_text())


@pytest.fixture
def write(tiny_bundle):
    return lambda content: (tiny_bundle / "manifest.json").write_text(json.dumps(content))


def other(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.0001 if isinstance(value, float) else f"{value}x"


def test_every_number_and_word_that_decides(tiny_bundle, manifest, write):
    tried = 0
    for place in places(manifest):
        value = manifest
        for key in place:
            value = value[key]
        if not place or place[0] not in SEALED or isinstance(value, dict | list | None):
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


@pytest.mark.parametrize("seal", [None, "", 5, "0" * 64, []])
def test_another_seal(tiny_bundle, manifest, write, seal):
    write({**manifest, "seal": seal})
    with pytest.raises(BundleError, match="was changed since caan wrote it"):
        open_bundle(tiny_bundle)


def test_a_record_may_be_added_to_and_a_bundle_changed_by_caan_is_sealed_anew(tiny_bundle, manifest, write):
    manifest["precisions"]["fp32"]["checks"].append({"what": "a look"})
    write({**manifest, "note": "ours"})
    assert open_bundle(tiny_bundle).manifest["note"] == "ours"
    manifest["limits"]["words"] -= 1
    write_manifest(tiny_bundle, manifest)
    assert open_bundle(tiny_bundle).manifest["seal"] == seal_of(manifest)


@pytest.mark.parametrize("scale", [1.0, 2.0, 3.9999998, -4.0, 40.0, 1e38])
def test_without_a_seal_the_scale_is_compared_with_the_graph(tiny_bundle, manifest, write, scale):
    """As in bundles that were written before there was a seal."""
    pytest.importorskip("caan_native", reason="needs the package caan_native; make native builds it")
    del manifest["seal"]
    write(manifest)
    Retriever.open(tiny_bundle, "native")
    manifest["config"]["attention_scale"] = scale
    write(manifest)
    with pytest.raises(BundleError, match="the scorer does not multiply by its config"):
        Retriever.open(tiny_bundle, "native")
    Retriever.open(tiny_bundle, "onnxruntime")  # whose graph holds the scale


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 9.0, -3.5, 6.1])
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
