"""Altered graphs with updated hashes: the change to a model, and the expected message.

Python's runtime, C++'s and caan-build-engine are asked with the same ones.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import TensorProto, helper

GRAPH = "onnx/image_encoder.fp32.onnx"  # every backend opens it
SCORER = "onnx/scorer.fp32.onnx"
Change = Callable[[onnx.ModelProto], None]


def put_elsewhere(tensor: onnx.TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    tensor.ClearField("raw_data")


def external_initializer(model: onnx.ModelProto) -> None:
    put_elsewhere(model.graph.initializer[0])


def location_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def entry_alone(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")


def external_attribute(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0])
    put_elsewhere(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))


def external_in_a_branch(model: onnx.ModelProto) -> None:
    inner = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    put_elsewhere(inner)
    out = helper.make_tensor_value_info("w", TensorProto.FLOAT, [1])
    body = helper.make_graph([], "body", [], [out], [inner])
    add_condition(model)
    model.graph.node.insert(0, helper.make_node("If", ["yes"], ["unused"], then_branch=body, else_branch=body))


def add_condition(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))


def endless_loop(model: onnx.ModelProto) -> None:
    """A loop with 2^63 - 1 iterations."""
    ends = [helper.make_tensor_value_info("i", TensorProto.INT64, []), bool_end("go"), bool_end("on")]
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "body", ends[:2], ends[2:])
    add_condition(model)
    model.graph.initializer.append(helper.make_tensor("times", TensorProto.INT64, [], [2**63 - 1]))
    model.graph.node.insert(0, helper.make_node("Loop", ["times", "yes"], [], body=body))


def bool_end(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    model.functions.append(helper.make_function("own", "f", ["x"], ["y"], [node], [helper.make_opsetid("", 18)]))


def foreign_operator(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.graph.node.insert(0, helper.make_node("Run", [], ["unused"], domain="com.example"))


def engine_in_a_graph(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    node = helper.make_node("EPContext", [], ["unused"], domain="com.microsoft", embed_mode=0, ep_cache_context="/x")
    model.graph.node.insert(0, node)


def sparse_weights(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.node.append(helper.make_node("Identity", ["a"], ["b"]))


def renamed_input(model: onnx.ModelProto) -> None:
    old, new = model.graph.input[0].name, "pixels"
    model.graph.input[0].name = new
    for node in model.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = new if name == old else name


def another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def another_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info(model.graph.input[0].name, TensorProto.FLOAT, None))


def input_type(kind: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def input_shape(*axes: int | str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kind = model.graph.input[0].type.tensor_type.elem_type
        model.graph.input[0].CopyFrom(helper.make_tensor_value_info(model.graph.input[0].name, kind, axes))

    return change


def output_shape(*axes: int | str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kind = model.graph.output[0].type.tensor_type.elem_type
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info(model.graph.output[0].name, kind, axes))

    return change


def no_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def a_sequence(model: onnx.ModelProto) -> None:
    name = model.graph.input[0].name
    model.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, [1]))


def no_graph(model: onnx.ModelProto) -> None:
    model.ClearField("graph")


DISTRUST = "do not trust this bundle"
NOT_OURS = "is not the image_encoder of a caan bundle"
# Of the image encoder, whose input is features (images, regions, 12), and its output image_states (…, 41).
CASES: dict[str, tuple[Change, list[str]]] = {
    "an initializer in another file": (external_initializer, ["weights in another file", DISTRUST]),
    "an initializer said to be elsewhere": (location_alone, ["weights in another file", DISTRUST]),
    "an initializer with a file's name": (entry_alone, ["weights in another file", DISTRUST]),
    "an attribute in another file": (external_attribute, ["weights in another file", DISTRUST]),
    "a branch with weights in another file": (external_in_a_branch, ["(If)", "loops or branches", DISTRUST]),
    "an endless loop": (endless_loop, ["(Loop)", "loops or branches", DISTRUST]),
    "a function": (function, ["functions", DISTRUST]),
    "an operator of somebody's": (foreign_operator, ["'com.example'", DISTRUST]),
    "an engine": (engine_in_a_graph, ["(EPContext) of 'com.microsoft'", DISTRUST]),
    "sparse weights": (sparse_weights, ["sparse weights", DISTRUST]),
    "a graph for training": (training, ["a graph for training", DISTRUST]),
    "an input of another name": (renamed_input, [NOT_OURS, "it has the input 'pixels'"]),
    "an input more": (another_input, [NOT_OURS, "it has the input 'more'"]),
    "an output more": (another_output, [NOT_OURS, "it has the output 'features'"]),
    "an input of float64": (input_type(TensorProto.DOUBLE), [NOT_OURS, "features is of ONNX's type 11 (?, ?, 12)"]),
    "an input of float16": (input_type(TensorProto.FLOAT16), [NOT_OURS, "features is float16 (?, ?, 12)"]),
    "an input of text": (input_type(TensorProto.STRING), [NOT_OURS, "features is of ONNX's type 8"]),
    "a fixed number of images": (input_shape(3, "regions", 12), [NOT_OURS, "(3, ?, 12), not float32 (?, ?, 12)"]),
    "one region": (input_shape("images", 1, 12), [NOT_OURS, "(?, 1, 12), not float32 (?, ?, 12)"]),
    "an axis less": (input_shape("images", 12), [NOT_OURS, "features is float32 (?, 12)"]),
    "an axis more": (input_shape("images", "regions", 12, 1), [NOT_OURS, "features is float32 (?, ?, 12, 1)"]),
    "no axis": (input_shape(), [NOT_OURS, "features is float32 ()"]),
    "columns of any number": (input_shape("images", "regions", "F"), [NOT_OURS, "(?, ?, ?), not float32"]),
    "other columns": (input_shape("images", "regions", 1), ["does not fit its graphs", "features has 1 columns"]),
    "an input of any shape": (no_shape, [NOT_OURS, "features is float32 of any shape"]),
    "a sequence": (a_sequence, [NOT_OURS, "features is not a tensor of any shape"]),
    "states of one image": (output_shape(1, "regions", 41), [NOT_OURS, "image_states is float32 (1, ?, 41)"]),
    "states of other columns": (output_shape("images", "regions", 40), ["image_states has 40 columns"]),
    "no graph": (no_graph, ["ONNX Runtime can't load", "it is not an ONNX graph"]),
}


def altered(content: bytes, change: Change) -> bytes:
    model = onnx.load_from_string(content)
    change(model)
    return model.SerializeToString()
