"""The FP16 and INT8 passes: resulting graphs, FP32 islands, and rejected inputs."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from caan.bundle import GRAPHS, open_bundle
from caan.calibration.calibrate import calibrate
from caan.data.scan import open_split
from caan.errors import BundleError, ExportError, InputError
from caan.export.audit import FP16, FP32, INT8, audit, check_types
from caan.export.fp16 import ISLANDS, folded, island_nodes, match_nodes, to_fp16
from caan.export.int8 import SMALLEST_SCALE, STAY_FP16, quantizable, to_int8
from caan.export.precision import PrecisionPass, gate_bundle, random_check
from caan.export.rounding import with_explicit_rounding
from caan.runtime import Retriever

from ..conftest import write_tiny_data


@pytest.fixture(scope="module")
def bundle(tiny_folder):
    return open_bundle(tiny_folder / "model.caan")


@pytest.fixture(scope="module")
def graphs(bundle):
    return {name: onnx.load(bundle.graph(name, "fp32")) for name in GRAPHS}


@pytest.fixture(scope="module")
def ranges(bundle, make_once):
    folder = make_once("calibration-data", lambda folder: write_tiny_data(folder, images=64, split="train"))
    return calibrate(bundle, open_split(folder, "train"), method="min-max").ranges


@pytest.fixture(scope="module")
def fp16(bundle):
    return PrecisionPass(bundle, "fp16").graphs()


@pytest.fixture(scope="module")
def int8(bundle, ranges):
    maker = PrecisionPass(bundle, "int8", ranges=ranges)
    return maker.graphs(maker.quantizable())


def types_of_ends(graph):
    names = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16", TensorProto.INT64: "int64"}
    ends = [*graph.graph.input, *graph.graph.output]
    return {value.name: names[value.type.tensor_type.elem_type] for value in ends}


def weights(graph):
    return {i.data_type for i in graph.graph.initializer if np.prod(i.dims) > 1 and i.data_type != TensorProto.INT64}


def elements(graph):
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {v.name: v.type.tensor_type.elem_type for v in [*inferred.value_info, *inferred.input, *inferred.output]}


# Results of the passes


@pytest.mark.parametrize("made", ["fp16", "int8"])
def test_states_are_fp16_and_what_users_see_is_float32(made, request):
    result = {}
    for graph in request.getfixturevalue(made).graphs.values():
        result |= types_of_ends(graph)
    floats = {name: type_ for name, type_ in result.items() if type_ != "int64"}
    assert floats == {"features": "float32", "image_states": "float16", "text_states": "float16", "scores": "float32"}


def test_fp16_leaves_no_weight_in_fp32(fp16):
    for graph in fp16.graphs.values():
        assert weights(graph) <= {TensorProto.FLOAT16}


def test_every_node_but_the_islands_is_fp16(fp16):
    wide = {node for result in fp16.audits.values() for node, type_ in result.types.items() if type_ == FP32}
    assert wide == {
        *(f"image_encoder/norm_V_{op}" for op in ("Pow", "ReduceSum", "Clip", "Sqrt", "Div")),
        *(f"text_encoder/norm_U_{op}" for op in ("Pow", "ReduceSum", "Clip", "Sqrt", "Div")),
        "text_encoder/mean_directions",
        *(f"scorer/norm_{x}_{op}" for x in "AB" for op in ("Pow", "ReduceSum", "Clip", "Sqrt", "Div")),
        *(f"scorer/{kind}_{x}" for kind in ("softmax", "mask") for x in ("Hu", "Hv", "av", "au")),
        "scorer/score_ReduceSum",
        *(node for node in wide if node.startswith("scorer/mul_")),
    }
    # λH, the two masks after the softmax, and the products of the score
    assert len([node for node in wide if node.startswith("scorer/mul_")]) == 4


def test_nothing_is_rounded_inside_an_island(fp16):
    for graph in fp16.graphs.values():
        casts = {n.output[0]: n for n in graph.graph.node if n.op_type == "Cast"}
        for node in casts.values():
            before = casts.get(node.input[0])
            if before is not None and elements(graph)[before.input[0]] == TensorProto.FLOAT:
                assert helper.get_node_attr_value(before, "to") != TensorProto.FLOAT16, node.name


def test_scores_leave_the_graph_unrounded(fp16):
    (maker,) = [n for n in fp16.graphs["scorer"].graph.node if "scores" in n.output]
    assert maker.op_type == "ReduceSum"


def test_every_product_becomes_int8_and_the_gru_stays_fp16(int8):
    for name, result in int8.audits.items():
        products = {node: type_ for node, type_ in result.types.items() if node in quantizable(int8.graphs[name])}
        assert set(products.values()) == {INT8}
    assert {int8.audits["text_encoder"].types[f"text_encoder/gru_{way}"] for way in ("forward", "backward")} == {FP16}
    stay = {node: int8.audits["scorer"].types[node] for node in STAY_FP16}
    assert set(stay.values()) == {FP16} and 80 < int8.share_of_int8("scorer") < 100


def test_quantisation_is_symmetric_per_channel_for_weights_and_per_tensor_for_activations(int8, graphs):
    for name, graph in int8.graphs.items():
        values = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
        for node in graph.graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            assert values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any()
            scale = values[node.input[1]]
            assert scale.dtype == np.float32 and (scale >= SMALLEST_SCALE).all()
            assert (scale == scale.astype(np.float16)).all()
            weight = values.get(node.input[0])
            assert scale.size == (1 if weight is None or name == "scorer" else weight.shape[-1])
            if weight is not None:
                assert weight.dtype == np.int8


def test_only_quantised_products_read_what_is_quantised(int8, bundle, ranges):
    """V and U enter the states unquantised, even if a product reads them in INT8."""
    alone = PrecisionPass(bundle, "int8", ranges=ranges).graphs(["image_encoder/VK", "scorer/Su"])
    for made, chosen in ((int8, None), (alone, {"image_encoder/VK", "scorer/Su"})):
        for graph in made.graphs.values():
            quantised = {n.output[0] for n in graph.graph.node if n.op_type == "DequantizeLinear"}
            readers = {n.name for n in graph.graph.node if set(n.input) & quantised}
            assert readers <= (set(quantizable(graph)) if chosen is None else chosen)


def test_a_tiny_weight_s_scale_does_not_vanish(graphs, ranges):
    graph = onnx.ModelProto()
    graph.CopyFrom(graphs["image_encoder"])
    for initializer in graph.graph.initializer:
        if list(initializer.dims) == [10, 7]:
            initializer.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(initializer) * np.float32(1e-6), initializer.name)
            )
    made = to_int8(graph, ranges["image_encoder"], quantizable(graph))
    scales = [numpy_helper.to_array(i) for i in made.graph.initializer if i.name.endswith("_scale")]
    assert min(float(scale.min()) for scale in scales) >= SMALLEST_SCALE


def test_quantisation_rounds_in_float32_alone(int8):
    """In FP16, ONNX Runtime 1.20 to 1.28 truncates what it quantises."""
    for graph in int8.graphs.values():
        types = elements(graph) | {i.name: i.data_type for i in graph.graph.initializer}
        for node in graph.graph.node:
            if node.op_type == "QuantizeLinear":
                assert types[node.input[0]] == types[node.input[1]] == TensorProto.FLOAT
            if node.op_type == "DequantizeLinear":
                assert types[node.output[0]] == TensorProto.FLOAT


def test_some_nodes_alone_can_be_int8(bundle, ranges):
    made = PrecisionPass(bundle, "int8", ranges=ranges).graphs(["scorer/Su", "image_encoder/VK"])
    chosen = [node for result in made.audits.values() for node, type_ in result.types.items() if type_ == INT8]
    assert sorted(chosen) == ["image_encoder/VK", "scorer/Su"]
    assert "scorer/Su_UQ5" in made.kept_fp16 and "scorer/Su" not in made.kept_fp16


def test_nodes_that_stay_fp32_may_be_all(bundle):
    made = PrecisionPass(bundle, "fp16", [".*"]).graphs()
    for name in GRAPHS:
        assert set(made.audits[name].types.values()) == {FP32}
    assert max(random_check(bundle, made)["errors"].values()) < 1e-3  # states are FP16 nevertheless


# Multiply-adds


@settings(max_examples=10)
@given(st.integers(2, 40), st.integers(2, 30))
def test_multiply_adds_are_those_of_the_equations(graphs, regions, words):
    F, E, D, d = 12, 6, 10, 7
    R, T = regions, words
    counts = {name: sum(audit(graph, R, T).macs.values()) for name, graph in graphs.items()}
    assert counts["image_encoder"] == R * (F * D + D * D + 3 * D * d)
    assert counts["text_encoder"] == T * (2 * 3 * D * (E + D) + 3 * D * d)
    attended = T * R * d + R * 2 * T * d  # Aᵀ V Q2, then [A | Hu] times it and U Q3
    per_word = T * R * T + T * T * d + T * R * d  # Su, Su U Q5, Hvᵀ V Q6
    assert counts["scorer"] == R * T * D + attended + per_word + (R + T) * d + (R + T) * D


def test_a_product_of_which_one_side_is_quantised_is_not_int8(int8):
    graph = onnx.ModelProto()
    graph.CopyFrom(int8.graphs["image_encoder"])
    makers = {name: node for node in graph.graph.node for name in node.output}
    (product,) = [node for node in graph.graph.node if node.name == "image_encoder/XW"]
    product.input[0] = makers[makers[product.input[0]].input[0]].input[0]
    assert audit(graph, 5, 8).types["image_encoder/XW"] == FP32
    assert int8.audits["image_encoder"].types["image_encoder/XW"] == INT8


def test_int8_and_fp16_multiply_adds_add_up(int8, fp16):
    for name in GRAPHS:
        assert sum(int8.audits[name].macs.values()) == sum(fp16.audits[name].macs.values())


# --keep-fp32


def test_a_named_node_stays_fp32_in_both_precisions(bundle, ranges):
    for precision in ("fp16", "int8"):
        maker = PrecisionPass(bundle, precision, ["scorer/Su", r".*/norm_A_\w+", "image_encoder/VQ[12]"], ranges)
        made = maker.graphs(maker.quantizable() if precision == "int8" else ())
        types = {node: type_ for result in made.audits.values() for node, type_ in result.types.items()}
        for node in ("scorer/Su", "image_encoder/VQ1", "image_encoder/VQ2"):
            assert types[node] == FP32
        assert types["image_encoder/VQ6"] == (INT8 if precision == "int8" else FP16)


@pytest.mark.parametrize(("pattern", "says"), [("scorer/Sv", "no node is named"), ("scorer/(", "regular expression")])
def test_a_pattern_that_names_nothing_is_refused(graphs, pattern, says):
    with pytest.raises(InputError, match=says):
        match_nodes(graphs.values(), [pattern])


def test_a_pattern_must_match_the_whole_name(graphs):
    with pytest.raises(InputError):
        match_nodes(graphs.values(), ["Su"])
    assert match_nodes(graphs.values(), ["scorer/Su"]) == ["scorer/Su"]


# Rejected inputs


def test_an_eps_that_underflows_is_caught_by_name(graphs):
    without_norms = [island for island in ISLANDS if island != "norms"]
    with pytest.raises(ExportError, match=r"scorer/norm_A_Clip .* becomes 0 in FP16.*--keep-fp32 scorer/norm_A_Clip"):
        to_fp16(graphs["scorer"], islands=without_norms)


def test_a_weight_that_overflows_is_caught_by_name(graphs):
    graph = onnx.ModelProto()
    graph.CopyFrom(graphs["image_encoder"])
    bias = next(i for i in graph.graph.initializer if i.name.endswith("fc.bias"))
    bias.CopyFrom(numpy_helper.from_array(np.full(10, 1e5, np.float32), bias.name))
    with pytest.raises(ExportError, match=r"image_encoder/linear .* becomes infinite"):
        to_fp16(graph)
    assert to_fp16(graph, keep_fp32=["image_encoder/linear"]) is not None


def test_a_missing_range_is_refused(graphs, ranges):
    incomplete = {name: value for name, value in ranges["scorer"].items() if name != "view"}
    with pytest.raises(ExportError, match="no range was calibrated for view"):
        to_int8(graphs["scorer"], incomplete, ["scorer/H"])


def test_a_node_of_another_type_than_asked_is_caught_by_name(graphs, fp16):
    result = audit(fp16.graphs["scorer"], 5, 8)
    with pytest.raises(ExportError, match="scorer/norm_A_Pow of the scorer graph computes in FP32 instead of INT8"):
        check_types("scorer", result, result.types | {"scorer/norm_A_Pow": INT8}, FP16)
    with pytest.raises(ExportError, match="scorer/gone is missing"):
        check_types("scorer", result, result.types | {"scorer/gone": FP16}, FP16)


def test_a_graph_that_gives_nan_is_refused(bundle, fp16):
    broken = onnx.ModelProto()
    broken.CopyFrom(fp16.graphs["scorer"])
    for initializer in broken.graph.initializer:
        if initializer.data_type == TensorProto.FLOAT and numpy_helper.to_array(initializer).size == 1:
            initializer.CopyFrom(
                numpy_helper.from_array(np.float32(np.nan).reshape(initializer.dims), initializer.name)
            )
    fp16.graphs["scorer"], kept = broken, fp16.graphs["scorer"]
    try:
        with pytest.raises(ExportError, match="fp16 scorer graph gives NaN"):
            random_check(bundle, fp16)
    finally:
        fp16.graphs["scorer"] = kept


# Explicit rounding, on which the gate relies


def half_chain():
    """(x + 2⁻¹²) − 1 in FP16: 0 for x = 1 if the sum is rounded to FP16, 2⁻¹² if it is not."""
    constants = [
        numpy_helper.from_array(np.float16(value).reshape(()), name) for name, value in (("c", 2**-12), ("o", 1))
    ]
    nodes = [helper.make_node("Add", ["x", "c"], ["a"], "add"), helper.make_node("Sub", ["a", "o"], ["y"], "sub")]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "half", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(graph, **inputs):
    import onnxruntime as ort

    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_onnxruntime_rounds_where_the_rounding_is_explicit():
    one = np.ones(3, np.float16)
    assert (run(with_explicit_rounding(half_chain()), x=one) == 0).all()
    # If this fails, ONNX Runtime's CPU provider rounds itself, and rounding.py is no longer needed.
    assert (run(half_chain(), x=one) == 2**-12).all()


def test_an_overflow_shows():
    big = np.full(2, 60000, np.float16)
    graph = half_chain()
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.float16(60000).reshape(()), "c"))
    assert np.isinf(run(with_explicit_rounding(graph), x=big)).all()


@pytest.mark.parametrize("made", ["fp16", "int8"])
def test_explicit_rounding_keeps_the_ends_and_stays_close(made, request, bundle):
    precision = request.getfixturevalue(made)
    for graph in precision.graphs.values():
        rounded = with_explicit_rounding(graph)
        onnx.checker.check_model(rounded, full_check=True)
        assert types_of_ends(rounded) == types_of_ends(graph)
    errors = random_check(bundle, precision)["errors"]
    assert 0 < max(errors.values()) < {"fp16": 5e-3, "int8": 0.05}[made]


def test_the_gate_s_bundle_scores_as_the_precision_does(bundle, fp16, tiny_folder, tmp_path):
    data = open_split(tiny_folder / "data")
    folder = gate_bundle(bundle, fp16, tmp_path / "gate.caan")
    scores = Retriever.open(folder, precision="fp16").score_dataset(data.features, data.captions)
    exact = Retriever.open(bundle.folder).score_dataset(data.features, data.captions)
    assert scores.dtype == np.float32 and 0 < np.abs(scores - exact).max() < 0.01
    with pytest.raises(BundleError, match="no precision 'fp32'"):
        Retriever.open(folder)


# The FP32 source


def test_folding_changes_no_node_that_computes(graphs):
    for graph in graphs.values():
        assert audit(folded(graph), 5, 8).types.keys() <= audit(graph, 5, 8).types.keys()
        assert sum(audit(folded(graph), 5, 8).macs.values()) == sum(audit(graph, 5, 8).macs.values())


def test_islands_are_where_the_equations_say(graphs):
    members = island_nodes(folded(graphs["scorer"]))
    assert set(members) == set(ISLANDS)
    assert "scorer/norm_B_Sqrt" in members["norms"] and "scorer/score_ReduceSum" not in members["norms"]
    assert "scorer/softmax_au" in members["softmax"] and "scorer/mask_Hv" in members["softmax"]
    assert "scorer/score_ReduceSum" in members["final reduction"]
