"""`caan inspect` shows a bundle's contents, as text that fits a terminal and as complete JSON."""

import json
import re
import shutil
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.bundle import GRAPHS, SCORER_WEIGHTS, graph_file, open_bundle, plan_file, write_manifest
from caan.commands.inspect_text import layers_text, summary_text
from caan.errors import BundleError, install
from caan.export.describe import Layer, Tensor, describe, describe_layers
from caan.export.profiles import Statistics, default_profiles, profile_table

ENGINE = "tensorrt-rtx-int8-sm86-sm89"
CHECK = {
    "what": "onnxruntime against PyTorch FP32 on a data set",
    "data": "flickr8k test: 1,000 images × 5,000 captions",
    "device": "AMD EPYC, 2 cores",
    "passed": True,
    "summary": "rsum 239.66, Δ -0.22 (95 % interval -0.61 to +0.14)",
}
INT8 = {
    "checks": [CHECK],
    "status": "passed",
    "calibration": {
        "method": "percentile", "data": "flickr8k", "split": "train", "images": 64, "captions": 320, "pairs": 2048,
        "positives": 320, "held_out": 900, "seed": 7,
    },
    "kept_fp16": ["scorer/Zv_wv"],
    "kept_fp32": ["scorer/tanh_H"],
    "sensitivity": [
        {"node": "scorer/Zv_wv", "delta_rsum": -0.4, "mean_abs": 1e-3, "max_abs": 2e-2, "rank_flips": 3},
        {"node": "scorer/H", "delta_rsum": 0.0, "mean_abs": 1e-4, "max_abs": 2e-3, "rank_flips": 0},
    ],
    "nodes": {
        "text_encoder": {
            "macs": {"INT8": 250_000, "FP16": 750_000, "FP32": 0},
            "nodes": {"INT8": ["text_encoder/UQ3"], "FP16": ["text_encoder/gru_forward"], "FP32": []},
        },
        "scorer": {
            "macs": {"INT8": 869_776, "FP16": 0, "FP32": 100},
            "nodes": {
                "INT8": ["scorer/H", "scorer/Su"],
                "FP16": ["scorer/Zv_wv"],
                "FP32": [f"scorer/norm_A_{op}" for op in ("Pow", "Clip", "Div")] + ["scorer/mask_Hu"],
            },
        },
    },
}  # fmt: skip


@pytest.fixture
def full_bundle(tiny_bundle):
    """The tiny bundle with manifest entries of a precision int8 and its engine."""
    for graph in GRAPHS:
        shutil.copy(tiny_bundle / graph_file(graph, "fp32"), tiny_bundle / graph_file(graph, "int8"))
        (tiny_bundle / plan_file(graph, ENGINE)).parent.mkdir(parents=True, exist_ok=True)
        (tiny_bundle / plan_file(graph, ENGINE)).write_bytes(graph.encode() * 200_000)
    bundle = open_bundle(tiny_bundle)
    engine = {
        "target": "tensorrt-rtx",
        "version": "1.7.1.116",
        "precision": "int8",
        "compute_capabilities": ["8.6", "8.9"],
        "options": {"optimization_level": 3, "workspace_mib": 512, "hardware_compatible": True, "stripped": False},
        "profiles": {graph: [profile.as_dict() for profile in own] for graph, own in profiles(bundle).items()},
        "onnx": {graph: bundle.hash_of(graph_file(graph, "fp32")) for graph in GRAPHS},
        "checks": [],
        "run": "engine not run: no NVIDIA GPU here",
    }
    change(tiny_bundle, lambda m: m["precisions"].update(int8=INT8) or m.update(engines={ENGINE: engine}))
    return tiny_bundle


@pytest.fixture
def shown(run, full_bundle):
    """shown(): the command's output for the full bundle, with spaces collapsed."""

    def call(*arguments):
        done = run("inspect", full_bundle, *arguments)
        assert done.code == 0, done
        return " ".join(done.out.split())

    return call


@pytest.fixture
def no_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "caan.export.audit", raising=False)


def profiles(bundle):
    return default_profiles(bundle.config, bundle.manifest["limits"], Statistics.assumed(bundle.config))


def change(bundle, alter):
    """Alter a bundle's manifest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    alter(manifest)
    write_manifest(bundle, manifest)


def test_a_bundle_of_fp32_alone(run, tiny_folder):
    done = run("inspect", tiny_folder / "model.caan")
    text = " ".join(done.out.split())
    assert done.code == 0
    assert "region_dim 12, embed_dim 10" in text and "limits 512 regions, 128 words" in text
    assert "checkpoint ../model.pt (rsum 1.00)" in text
    assert "precision fp32 check image_encoder " in text
    assert "ONNX Runtime against PyTorch, largest error over three batch shapes, random inputs" in text
    assert "engine" not in text and "int8" not in text


def test_every_graph_s_ends_are_in_the_table(shown):
    text = shown()
    assert "tensor shape fp32 int8" in text
    assert "image_encoder in features images × regions × 12 float32 float32 out image_states" in text
    assert "in text_lengths captions int64 int64" in text
    assert "out scores images × captions float32 float32" in text
    assert "out av images × captions × regions float32 – " in text
    assert "expander in regions images × regions × 10 float32 – out image_states" in text


def test_files_are_shown_with_sizes(shown, full_bundle):
    text = shown()
    kilo = {p: [f"{(full_bundle / graph_file(g, p)).stat().st_size / 1000:.1f} kB" for g in GRAPHS] for p in ("fp32",)}
    assert f"onnx fp32 {' '.join(kilo['fp32'])}" in text
    assert f"vocab.json {(full_bundle / 'vocab.json').stat().st_size} B" in text
    # 13, 12 and 6 letters, 200,000 times
    assert f"engine {ENGINE} 2.5 MiB 2.3 MiB 1.1 MiB 5.9 MiB" in text
    total = sum(path.stat().st_size for path in full_bundle.rglob("*") if path.is_file())
    total -= (full_bundle / "manifest.json").stat().st_size
    assert f"all {total / 2**20:.1f} MiB graphs" in text


def test_a_precision_is_shown_with_its_status_checks_and_numbers(shown):
    text = shown()
    assert (
        f"precision int8: passed check ✓ {CHECK['summary']} {CHECK['what']}, {CHECK['data']}, {CHECK['device']}" in text
    )
    assert "calibration percentile, on flickr8k train: 2,048 pairs of 64 images and 320 captions, seed 7" in text
    assert "not INT8 scorer/Zv_wv kept FP32 scorer/tanh_H" in text
    assert "scorer/Zv_wv 1.0e-03 2.0e-02 -0.40 3 scorer/H 1.0e-04 2.0e-03 +0.00 0" in text


def test_a_node_whose_scores_became_nan_costs_infinity(run, full_bundle):
    """JSON has no infinity: a build writes null."""
    cost = {"node": "scorer/H", "delta_rsum": -400.0, "mean_abs": None, "max_abs": None, "rank_flips": 6}
    change(full_bundle, lambda m: m["precisions"]["int8"].update(sensitivity=[cost]))
    assert "scorer/H inf inf -400.00 6" in " ".join(run("inspect", full_bundle).out.split())


def test_multiply_adds_are_shown_as_shares(shown):
    text = shown()
    assert "text_encoder 1.00 M 25.0 % 75.0 % – scorer 0.87 M 100.0 % – <0.1 %" in text


def test_nodes_of_another_type_than_the_precision_s_are_named(shown):
    text = shown()
    assert "in FP16 text_encoder: gru_forward scorer: Zv_wv in FP32 scorer: norm_A_* (3), mask_Hu" in text
    assert "in INT8" not in text.replace("in INT8 alone", "")


def test_a_missed_gate_is_marked(run, full_bundle):
    failed = {**INT8, "status": "failed", "checks": [{**CHECK, "passed": False}]}
    change(full_bundle, lambda m: m["precisions"].update(int8=failed))
    out = run("inspect", full_bundle).out
    assert "precision int8: failed" in out and "✗ rsum 239.66" in out


def test_an_engine_is_shown_with_target_options_and_profiles(run, full_bundle):
    out = run("inspect", full_bundle).out
    text = " ".join(out.split())
    assert f"engine {ENGINE} target tensorrt-rtx 1.7.1.116, compute capability 8.6, 8.9" in text
    assert "options optimization level 3, workspace 512 MiB, hardware compatible built from" in text
    assert "built from ✓ the int8 graphs of this bundle run ✗ engine not run: no NVIDIA GPU here" in text
    assert [line.strip() for line in profile_table(profiles(open_bundle(full_bundle))).splitlines()] == [
        line.strip() for line in out[out.index("  graph ") :].splitlines()
    ]


def test_an_engine_that_was_run_and_names_no_gpu(run, full_bundle):
    gpu = {**CHECK, "device": "NVIDIA RTX 4090", "summary": "rsum 239.70"}
    alter = {"run": None, "checks": [gpu], "compute_capabilities": [], "options": {}}
    change(full_bundle, lambda m: m["engines"][ENGINE].update(alter))
    text = " ".join(run("inspect", full_bundle).out.split())
    assert "compute capability 8.0 and newer options – built from" in text
    assert "check ✓ rsum 239.70" in text and "NVIDIA RTX 4090" in text and "run ✗" not in text


def test_a_stale_engine_is_shown_with_the_command_that_builds_it_again(run, full_bundle):
    change(full_bundle, lambda m: m["engines"][ENGINE]["onnx"].update(scorer="0" * 64, image_encoder="1" * 64))
    text = " ".join(run("inspect", full_bundle).out.split())
    assert "built from ✗ stale: the int8 image_encoder and scorer changed since; build again: caan-build-engine" in text
    assert "--int8" in text and "--target tensorrt-rtx" in text


def test_json_leaves_nothing_out(run, full_bundle):
    result = json.loads(run("inspect", full_bundle, "--json").out)
    assert result["bundle"] == str(full_bundle)
    assert result["manifest"] == json.loads((full_bundle / "manifest.json").read_text())
    assert result["stale"] == {ENGINE: []}
    assert result["graphs"]["int8"]["scorer"]["outputs"] == [
        {"name": "scores", "dtype": "float32", "axes": ["images", "captions"]}
    ]


def test_the_only_bundle_here_is_the_default(run, full_bundle, monkeypatch):
    monkeypatch.chdir(full_bundle.parent)
    assert run("inspect").out == run("inspect", "model.caan").out


def test_layers_are_shown_with_operator_type_and_shape(run, tiny_folder):
    bundle = tiny_folder / "model.caan"
    lines = run("inspect", bundle, "--layers", "image_encoder").out.splitlines()
    nodes = describe_layers(bundle, "image_encoder", "fp32")
    assert lines[0] == f"{bundle}/onnx/image_encoder.fp32.onnx: {len(nodes)} nodes"
    assert len(lines) == len(nodes) + 3
    assert lines[3].split() == ["image_encoder/XW", "MatMul", "FP32", "float32", "images", "×", "regions", "×", "10"]
    assert lines[-1].split()[:4] == ["image_encoder/cat", "Concat", "–", "float32"]


def test_layers_of_a_named_precision_in_json(run, full_bundle):
    result = json.loads(run("inspect", full_bundle, "--layers", "scorer", "--precision", "int8", "--json").out)
    assert (result["graph"], result["precision"]) == ("scorer", "int8")
    product = next(layer for layer in result["layers"] if layer["name"] == "scorer/H")
    assert product["op"] == "MatMul" and product["computes_in"] == "FP32"
    assert product["outputs"][0]["axes"] == ["images·regions", "captions·words"]


@pytest.mark.parametrize("columns", [100, 120])
def test_the_text_fits_the_terminal(run, full_bundle, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    names = ["scorer/" + "ab-" * length + "z" for length in range(1, 20)]
    change(full_bundle, lambda m: m["precisions"]["int8"].update(kept_fp32=names))
    monkeypatch.chdir(full_bundle.parent)
    out = run("inspect").out + run("inspect", "--layers", "scorer").out
    widths = [sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line) for line in out.splitlines()]
    assert columns - 12 < max(widths) <= columns
    assert [line for line in out.splitlines() if line != line.rstrip() or re.search(r"\w-$", line)] == []


def test_a_wider_terminal_is_not_filled(run, full_bundle, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    change(full_bundle, lambda m: m["precisions"]["int8"].update(kept_fp32=["scorer/a_long_name"] * 30))
    assert max(map(len, run("inspect", full_bundle).out.splitlines())) <= 120


def test_a_long_node_name_is_shortened_in_its_middle(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    output = Tensor("x", "float16", ["images", "captions", "regions", "words"])
    layers = [Layer("first" + "x" * 200 + "last", "DequantizeLinear", None, [output])]
    line = layers_text("title", layers).splitlines()[-1]
    assert 99 <= len(line) <= 100
    assert line.startswith("  firstx") and "…" in line and "last  DequantizeLinear" in line


def test_a_node_without_outputs_known_is_still_a_line():
    assert "scorer/H" in layers_text("title", [Layer("scorer/H", "MatMul", "INT8", [Tensor("y", "?", [])])])


def test_a_manifest_can_t_command_the_terminal(run, full_bundle):
    change(full_bundle, lambda m: m.update(tokenizer="white\x1b[31mspace\x07"))
    out = run("inspect", full_bundle).out
    assert "\x1b" not in out and "\x07" not in out and "white\\x1b[31mspace\\x07" in out


def test_without_onnx_the_manifest_is_shown(shown, no_onnx):
    text = shown()
    assert f"inputs and outputs need onnx: {install('export')}" in " ".join(text.split())
    assert "precision int8: passed" in text and f"engine {ENGINE}" in text
    assert json.loads(shown("--json"))["graphs"] is None


def test_layers_without_onnx(refused, full_bundle, no_onnx):
    refused("inspect", full_bundle, "--layers", "scorer", says=["'onnx'", install("export")], code=4)


def test_what_is_asked_wrongly(refused, tiny_bundle):
    refused("inspect", "--precision", "fp32", says=["--precision belongs to --layers"])
    refused(
        "inspect", "--layers", "decoder", says=["'decoder' is not one of 'image_encoder', 'text_encoder', 'scorer'"]
    )
    refused("inspect", "--layers", "scorer", "--precision", "fp8", says=["no precision 'fp8'; it has: fp32"])
    refused("inspect", "nowhere.caan", says=["nowhere.caan is not a bundle", "caan-export model.pt"])
    shutil.copytree(tiny_bundle, tiny_bundle.parent / "other.caan")
    refused("inspect", says=["several bundles here (model.caan, other.caan)"])


@pytest.mark.parametrize("file", ["vocab.json", "onnx/scorer.int8.onnx", f"engines/{ENGINE}/scorer.plan"])
@pytest.mark.parametrize("arguments", [[], ["--json"], ["--layers", "scorer"]])
def test_a_damaged_file_is_named(refused, full_bundle, file, arguments):
    content = bytearray((full_bundle / file).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (full_bundle / file).write_bytes(content)
    refused("inspect", full_bundle, *arguments, says=[file, "was changed", "copy the bundle again"])


def test_a_damaged_manifest(refused, full_bundle):
    change(full_bundle, lambda m: m["engines"][ENGINE].update(profiles=None))
    refused("inspect", full_bundle, says=["manifest.json has no valid", f"engines.{ENGINE}.profiles"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value, path=()):
    """Every path in a JSON value, as keys and indices."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


@settings(max_examples=150)
@given(data=st.data())
def test_any_manifest_is_described_or_a_bundle_error(full_bundle, no_onnx, data):
    original = (full_bundle / "manifest.json").read_text()
    manifest = json.loads(original)
    spots = [place for place in places(manifest) if place and place[0] in ("precisions", "engines", "tools", "opset")]
    *way, last = data.draw(st.sampled_from(spots))
    inner = manifest
    for key in way:
        inner = inner[key]
    inner[last] = data.draw(JSON)
    (full_bundle / "manifest.json").write_text(json.dumps(manifest, indent=2))
    try:
        assert summary_text(describe(full_bundle))
    except BundleError as error:
        assert "model.caan" in str(error)
    finally:
        (full_bundle / "manifest.json").write_text(original)


def test_an_old_bundle_is_told_what_its_age_costs(tiny_bundle):
    assert "missing" not in summary_text(describe(tiny_bundle))
    (tiny_bundle / SCORER_WEIGHTS).unlink()
    write_manifest(tiny_bundle, json.loads((tiny_bundle / "manifest.json").read_text()))
    text = " ".join(summary_text(describe(tiny_bundle)).split())
    assert f"{SCORER_WEIGHTS}: the bundle is older than the backends native and triton; export" in text
