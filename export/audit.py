"""What a precision pass actually produced: the type each node computes in, and the multiply-adds per type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import TensorProto

from ..bundle import CAPTIONS, IMAGES, REGIONS, WORDS
from ..errors import ExportError

INT8, FP16, FP32 = "INT8", "FP16", "FP32"
_FLOATS = {TensorProto.FLOAT: FP32, TensorProto.FLOAT16: FP16}
# These move or cast values and compute nothing.
_MOVES = {
    "Cast", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Expand", "Gather", "GatherElements",
    "QuantizeLinear", "Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


@dataclass(frozen=True)
class Audit:
    """One graph: node → INT8, FP16 or FP32 for every node that computes on floats, and multiply-adds per type."""

    types: dict[str, str]
    macs: dict[str, int]  # of one image and one caption

    def as_dict(self) -> dict[str, dict[str, int] | dict[str, list[str]]]:
        """For the manifest: the multiply-adds, and node names by type."""
        return {
            "macs": self.macs,
            "nodes": {t: [n for n, type_ in self.types.items() if type_ == t] for t in self.macs},
        }


def audit(graph: onnx.ModelProto, regions: int, words: int) -> Audit:
    """Find the type each node computes in; multiply-adds are for one image and one caption of these lengths.

    Lengths must be at least 2. Raises ExportError for a product whose shape can't be inferred.
    """
    sized = with_sizes(graph, {IMAGES: 1, CAPTIONS: 1, REGIONS: regions, WORDS: words})
    everything = [*sized.graph.value_info, *sized.graph.input, *sized.graph.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in everything}
    elements = {v.name: v.type.tensor_type.elem_type for v in everything}
    for initializer in sized.graph.initializer:
        shapes[initializer.name], elements[initializer.name] = list(initializer.dims), initializer.data_type
    makers = {name: node.op_type for node in sized.graph.node for name in node.output}
    types, macs = {}, {INT8: 0, FP16: 0, FP32: 0}
    for node in sized.graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type in _MOVES or not inputs or elements.get(node.output[0]) not in _FLOATS:
            continue
        quantized = node.op_type == "MatMul" and all(makers.get(name) == "DequantizeLinear" for name in inputs)
        types[node.name] = INT8 if quantized else _FLOATS[elements[node.output[0]]]
        macs[types[node.name]] += _macs(node, shapes, words)
    return Audit(types, macs)


def check_types(name: str, result: Audit, expected: Mapping[str, str], default: str) -> None:
    """Raise ExportError, naming the node, unless every node computes in its expected type (`default` if unlisted)."""
    for node, type_ in result.types.items():
        type_expected = expected.get(node, default)
        if type_ != type_expected:
            raise ExportError(
                f"{node} of the {name} graph computes in {type_} instead of {type_expected}; nothing was written. Try"
                " the versions in constraints.txt: in its checkout pip install -c constraints.txt '.[cpu,export]'"
            )
    absent = sorted(set(expected) - set(result.types))
    if absent:
        raise ExportError(f"{absent[0]} is missing from the {name} graph after the pass; nothing was written")


def with_sizes(graph: onnx.ModelProto, sizes: Mapping[str, int]) -> onnx.ModelProto:
    """A copy with these sizes for its dynamic axes, by name, and the inferred type and shape of every value."""
    sized = onnx.ModelProto()
    sized.CopyFrom(graph)
    for value in [*sized.graph.input, *sized.graph.output]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
    return onnx.shape_inference.infer_shapes(sized, data_prop=True)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]], words: int) -> int:
    if node.op_type == "MatMul":
        count = prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        if not count:  # an unknown axis counts as 0
            raise ExportError(f"the shape of {node.name} can't be inferred; export the checkpoint again")
        return count
    if node.op_type == "GRU":  # three gates; W (1, 3H, E), R (1, 3H, H)
        return words * (prod(shapes[node.input[1]]) + prod(shapes[node.input[2]]))
    return 0
