"""FP32 ONNX → FP16 ONNX, with FP32 islands where FP16 is not precise enough.

A value has its producer's type and is cast for consumers of the other type, so an island is FP32 from its first node to
its last. `onnxruntime.transformers.float16` is not used: it rounds to FP16 between any two FP32 nodes, so that ‖x‖²
passes through FP16 inside a norm, and its output differs between releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.logger import G_LOGGER

from ..errors import ExportError, InputError

# What always stays FP32, and why:
#   norms            ‖x‖² of a padded row is 0 and eps 1e-12 is 0 in FP16: 0/0. A sum of squares also
#                    overflows FP16 early.
#   softmax          exp and its sum; the logits λH, since exp magnifies their rounding error by λ; the mask.
#   final reduction  the score is a sum of D products, many of them tiny.
ISLANDS = {
    "norms": "x / max(‖x‖₂, eps) of V, U, A and B: Pow, ReduceSum, Clip, Sqrt, Div",
    "softmax": "the four softmax, their masks, and the products with λ before and with the mask after",
    "final reduction": "the score's products and their sum",
}
_NORM = {"Pow", "ReduceSum", "Clip", "Sqrt", "Div"}
# Values that users pass in or read stay float32; states, which only these graphs read, are FP16.
_FLOAT32_ENDS = {"features", "scores"}
_CASTS = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def island_nodes(graph: onnx.ModelProto) -> dict[str, list[str]]:
    """Island → names of its nodes in a graph."""
    nodes = graph.graph.node
    producers = {name: node.op_type for node in nodes for name in node.output}
    consumers: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.input:
            consumers.setdefault(name, set()).add(node.op_type)

    def near(node: onnx.NodeProto, before: str, after: str) -> bool:
        """Whether a factor of the product comes from an op `before`, or the product goes to an op `after`."""
        return before in {producers.get(name) for name in node.input} or after in consumers.get(node.output[0], set())

    products = [node for node in nodes if node.op_type == "Mul"]
    return {
        "norms": [node.name for node in nodes if node.op_type in _NORM and not node.name.endswith("score_ReduceSum")],
        "softmax": [node.name for node in nodes if node.op_type in ("Softmax", "Where")]
        + [node.name for node in products if near(node, "Softmax", "Where")],
        "final reduction": [node.name for node in nodes if node.name.endswith("score_ReduceSum")]
        + [node.name for node in products if "ReduceSum" in consumers.get(node.output[0], set())],
    }


def match_nodes(graphs: Iterable[onnx.ModelProto], patterns: Sequence[str]) -> list[str]:
    """Names of the nodes that `--keep-fp32 NAME|REGEX` selects. A pattern must match a whole name, as `scorer/Su`.

    Raises InputError for an invalid regular expression or one that matches no node.
    """
    names = [node.name for graph in graphs for node in graph.graph.node if node.op_type != "Constant"]
    result: list[str] = []
    for pattern in patterns:
        try:
            matching = [name for name in names if name == pattern or re.fullmatch(pattern, name)]
        except re.error as error:
            raise InputError(f"'{pattern}' is neither a node's name nor a regular expression: {error}") from error
        if not matching:
            raise InputError(
                f"no node is named like '{pattern}'; caan inspect --layers scorer lists them: scorer/Su, …"
            )
        result += matching
    return result


def to_fp16(graph: onnx.ModelProto, keep_fp32: Sequence[str] = (), islands: Iterable[str] = ISLANDS) -> onnx.ModelProto:
    """A copy of a graph in FP16: weights, states and all nodes except the islands and those in `keep_fp32`.

    Raises ExportError, naming constant and node, if a constant of an FP16 node would become 0 or infinite.
    """
    graph = folded(graph)
    members = island_nodes(graph)
    wide = {*keep_fp32, *(name for island in islands for name in members[island])}
    _check_constants(graph, wide)
    surgeon = gs.import_onnx(onnx.shape_inference.infer_shapes(graph, strict_mode=True))
    for tensor in [t for t in surgeon.tensors().values() if t.dtype == np.float32]:
        if isinstance(tensor, gs.Constant):
            _narrow_constant(tensor, wide)
        else:
            _narrow(surgeon, tensor, wide)
    for node in surgeon.nodes:
        if node.op == "ConstantOfShape" and node.outputs[0].dtype == np.float16:
            value = node.attrs["value"].values if "value" in node.attrs else np.zeros(1)
            node.attrs["value"] = gs.Constant(f"{node.name}_value", value.astype(np.float16))
        if node.op == "Cast" and node.attrs["to"] == TensorProto.FLOAT and node.outputs[0].dtype == np.float16:
            node.attrs["to"] = TensorProto.FLOAT16
    return as_onnx(surgeon, graph)


def as_onnx(surgeon: gs.Graph, source: onnx.ModelProto) -> onnx.ModelProto:
    """A changed graph, in the IR version of its source: an old ONNX Runtime can't read newer ones."""
    result: onnx.ModelProto = gs.export_onnx(surgeon.cleanup().toposort())
    result.ir_version = source.ir_version
    del result.graph.value_info[:]  # outdated; every tool infers shapes anyway
    return result


def folded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with constants folded into initializers: one form for all passes."""
    severity, G_LOGGER.severity = G_LOGGER.severity, G_LOGGER.CRITICAL  # it comments on the size of folded constants
    try:
        return as_onnx(gs.import_onnx(graph).fold_constants(), graph)
    finally:
        G_LOGGER.severity = severity


def _check_constants(graph: onnx.ModelProto, wide: set[str]) -> None:
    values = {i.name: i for i in graph.graph.initializer if i.data_type == TensorProto.FLOAT}
    for node in graph.graph.node:
        for name in node.input:
            if name not in values or node.name in wide:
                continue
            value = onnx.numpy_helper.to_array(values[name])
            with np.errstate(over="ignore"):
                rounded = value.astype(np.float16)
            # A tiny weight may underflow; a scalar such as an eps or a scale must not.
            vanished = value.size == 1 and value.any() and not rounded.any()
            if vanished or not np.isfinite(rounded).all():
                worst = float(value.reshape(-1)[np.argmax(np.abs(value))])
                becomes = "0" if vanished else "infinite"
                raise ExportError(
                    f"the constant {worst:g} of {node.name} ({name}) becomes {becomes} in FP16; keep that node in FP32:"
                    f" --keep-fp32 {node.name}"
                )


def _narrow_constant(constant: gs.Constant, wide: set[str]) -> None:
    """FP16 for consumers in FP16; those in FP32 read the exact values."""
    readers = [node for node in constant.outputs if node.name not in wide]
    if not readers:
        return
    half = constant.values.astype(np.float16)
    if len(readers) == len(constant.outputs):
        constant.values = half
    else:
        _replace(constant, gs.Constant(f"{constant.name}_fp16", half), readers)


def _narrow(surgeon: gs.Graph, tensor: gs.Variable, wide: set[str]) -> None:
    """Give a value its producer's type, and its consumers of the other type a cast."""
    is_end = any(tensor is end for end in [*surgeon.inputs, *surgeon.outputs])
    io_type = np.float32 if tensor.name in _FLOAT32_ENDS else np.float16  # of the graph's inputs and outputs
    produced = io_type if not tensor.inputs else np.float32 if tensor.inputs[0].name in wide else np.float16
    tensor.dtype = io_type if is_end else produced
    readers: dict[type, list[gs.Node]] = {np.float32: [], np.float16: []}
    for reader in tensor.outputs:
        readers[np.float32 if reader.name in wide else np.float16].append(reader)
    other = np.float16 if produced is np.float32 else np.float32
    if tensor.dtype is not produced:
        # The graph's output is the cast; the producer and consumers of its type use the value before it.
        before = gs.Variable(f"{tensor.name}_before_cast", produced)
        tensor.inputs[0].outputs = [before if t is tensor else t for t in tensor.inputs[0].outputs]
        _replace(tensor, before, readers[produced])
        surgeon.nodes.append(_cast(before, tensor))
    elif readers[other]:
        cast = gs.Variable(f"{tensor.name}_as_{np.dtype(other).name}", other)
        _replace(tensor, cast, readers[other])
        surgeon.nodes.append(_cast(tensor, cast))


def _cast(source: gs.Variable, target: gs.Variable) -> gs.Node:
    attributes = {"to": _CASTS[target.dtype]}
    return gs.Node("Cast", f"{target.name}_cast", attributes, inputs=[source], outputs=[target])


def _replace(tensor: gs.Tensor, other: gs.Tensor, readers: Sequence[gs.Node]) -> None:
    for reader in readers:
        reader.inputs = [other if t is tensor else t for t in reader.inputs]
