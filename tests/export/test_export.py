"""Export: dynamic axes, validation that can fail, and a bundle that is complete or absent."""

import json

import numpy as np
import onnx
import pytest
import torch

from caan.errors import ExportError, GateError, OutputError
from caan.export import bundle_from_checkpoint as to_bundle
from caan.export.bundle_from_checkpoint import export_checkpoint
from caan.export.graphs import OPSET, export_graph, graph_specs
from caan.export.recurrence import whole_recurrence
from caan.export.validate import validate_graph
from caan.model.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tiny_folder):
    return load_checkpoint(tiny_folder / "model.pt")


@pytest.fixture(scope="module")
def graphs(tiny_folder) -> dict[str, onnx.ModelProto]:
    folder = tiny_folder / "model.caan" / "onnx"
    return {path.name.split(".")[0]: onnx.load(path) for path in folder.glob("*.onnx")}


def test_every_axis_but_the_feature_dimensions_is_dynamic(graphs):
    expected = {
        "image_encoder": {"features": ["images", "regions", 12], "image_states": ["images", "regions", 41]},
        "text_encoder": {
            "tokens": ["captions", "words"],
            "text_lengths": ["captions"],
            "text_states": ["captions", "words", 31],
        },
        "scorer": {
            "image_states": ["images", "regions", 41],
            "image_lengths": ["images"],
            "text_states": ["captions", "words", 31],
            "text_lengths": ["captions"],
            "scores": ["images", "captions"],
        },
        "expander": {"regions": ["images", "regions", 10], "image_states": ["images", "regions", 41]},
    }
    alignments = {name: ["images", "captions", "regions", "words"] for name in ("H", "Hu", "Hv")}
    weights = {"av": ["images", "captions", "regions"], "au": ["images", "captions", "words"]}
    expected["explainer"] = {**expected["scorer"], **alignments, **weights}
    assert set(graphs) == set(expected)
    for name, graph in graphs.items():
        result = {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in [*graph.graph.input, *graph.graph.output]
        }
        assert result == expected[name]
        assert [o.version for o in graph.opset_import if o.domain == ""] == [OPSET]


@pytest.mark.parametrize("name", ["scorer", "explainer"])
def test_no_per_item_work_is_left_in_the_scorer(graphs, name):
    # K and Q1 … Q6 are in the encoders; the scorer keeps the two weight vectors.
    sizes = [int(np.prod(tensor.dims)) for tensor in graphs[name].graph.initializer]
    assert max(sizes) <= 7


def test_a_graph_says_nothing_of_where_it_was_traced(tiny_folder):
    """Its hash identifies an encoder: galleries stay valid if the same checkpoint is exported elsewhere."""
    for path in (tiny_folder / "model.caan" / "onnx").glob("*.onnx"):
        assert b".py" not in path.read_bytes(), path


def test_validation_sees_one_wrong_output_of_several(checkpoint, graphs):
    broken = onnx.ModelProto()
    broken.CopyFrom(graphs["explainer"])
    for node in broken.graph.node:
        for names in (node.input, node.output):
            names[:] = ["right_au" if name == "au" else name for name in names]
    broken.graph.node.append(onnx.helper.make_node("Mul", ["right_au", "right_au"], ["au"]))
    spec = graph_specs(checkpoint.model)[3]
    with pytest.raises(ExportError, match="explainer graph differs from PyTorch"):
        validate_graph(spec, broken, checkpoint.model)


def test_the_gru_is_one_onnx_operator_per_direction_with_pytorch_s_reset(graphs):
    nodes = [node for node in graphs["text_encoder"].graph.node if node.op_type == "GRU"]
    resets = [a.i for node in nodes for a in node.attribute if a.name == "linear_before_reset"]
    assert len(nodes) == 2 and resets == [1, 1]


def test_validation_sees_a_wrong_gru_reset(checkpoint, graphs):
    broken = onnx.ModelProto()
    broken.CopyFrom(graphs["text_encoder"])
    for node in broken.graph.node:
        for attribute in node.attribute:
            if attribute.name == "linear_before_reset":
                attribute.i = 0
    spec = graph_specs(checkpoint.model)[1]
    with pytest.raises(ExportError, match="text_encoder graph differs from PyTorch"):
        validate_graph(spec, broken, checkpoint.model)


@pytest.mark.slow
def test_validation_sees_a_baked_in_axis(checkpoint):
    spec = graph_specs(checkpoint.model)[2]
    graph = export_graph(spec, checkpoint.model)
    for value in graph.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == "images":
                dimension.dim_value = 3
    with pytest.raises(ExportError, match="scorer graph failed its validation"):
        validate_graph(spec, graph, checkpoint.model)


def test_a_failed_validation_leaves_no_bundle_and_keeps_an_old_one(
    checkpoint, tiny_folder, tiny_bundle, tmp_path, monkeypatch, traced
):
    before = (tiny_bundle / "manifest.json").read_bytes()

    def fail(*arguments):
        raise ExportError("differs")

    monkeypatch.setattr(to_bundle, "validate_graph", fail)
    with pytest.raises(ExportError):
        export_checkpoint(checkpoint, tiny_folder / "model.pt", tmp_path / "new.caan")
    with pytest.raises(ExportError):
        export_checkpoint(checkpoint, tiny_folder / "model.pt", tiny_bundle, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [tiny_bundle.name]
    assert (tiny_bundle / "manifest.json").read_bytes() == before


def test_a_failed_gate_leaves_no_bundle(checkpoint, tiny_folder, tmp_path, traced):
    def gate(bundle):
        raise GateError("rsum")

    with pytest.raises(GateError):
        export_checkpoint(checkpoint, tiny_folder / "model.pt", tmp_path / "new.caan", gate=gate)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_says_what_was_checked(tiny_folder):
    manifest = json.loads((tiny_folder / "model.caan" / "manifest.json").read_text())
    check = manifest["precisions"]["fp32"]["checks"][0]
    assert set(check["errors"]) == {"image_encoder", "text_encoder", "scorer", "explainer", "expander"}
    assert all(0 < error <= check["allowed"] == 1e-5 for error in check["errors"].values())
    assert manifest["tools"]["torch"] == torch.__version__
    assert manifest["checkpoint"]["file"] == "../model.pt"


def test_an_existing_bundle_is_kept_without_overwrite(checkpoint, tiny_folder, tiny_bundle):
    before = (tiny_bundle / "manifest.json").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        export_checkpoint(checkpoint, tiny_folder / "model.pt", tiny_bundle)
    assert (tiny_bundle / "manifest.json").read_bytes() == before


def test_the_recurrence_is_one_operator_for_the_exporter_and_pytorch_s_own_afterwards(checkpoint, graphs):
    """PyTorch 2.10 and 2.12 decompose their own GRU, and freeze the number of words."""
    encoder = checkpoint.model.text_encoder
    tokens, lengths = torch.arange(12).reshape(3, 4), torch.tensor([4, 1, 2])
    expected = encoder(tokens, lengths)
    with whole_recurrence(encoder) as translations, pytest.raises(RuntimeError, match="left early"):
        assert torch.equal(encoder(tokens, lengths), expected)
        assert list(translations) == [torch.ops.caan.gru.default]
        raise RuntimeError("left early")
    assert encoder.recurrence is torch.gru
    # No trace of the exporter's own decomposition of a GRU is left.
    assert not [node.name for node in graphs["text_encoder"].graph.node if node.op_type == "Reshape"]


def test_an_exporter_that_fails_is_an_error_that_names_the_version(checkpoint, monkeypatch):
    def fail(*arguments, **options):
        raise torch.onnx.OnnxExporterError("step 3 of 3\nfailed")

    monkeypatch.setattr(torch.onnx, "export", fail)
    spec = graph_specs(checkpoint.model)[0]
    with pytest.raises(
        ExportError, match=r"PyTorch .* can't export the image_encoder graph .*step 3 of 3\).*pip install"
    ):
        export_graph(spec, checkpoint.model)
