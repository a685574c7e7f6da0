"""FP32 ONNX → FP16 ONNX, with FP32 islands where the numbers need them.

The conversion is `onnxruntime.transformers.float16`'s. It rounds to FP16 between any two nodes it keeps in FP32, which
would take ‖x‖² through FP16 in the middle of a norm; those roundings are taken out again here, so that an island is
FP32 from its first node to its last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.logger import G_LOGGER

from ..errors import ExportError, InputError, needs

# What stays FP32 whatever is asked for, and why:
#   norms            ‖x‖² of a padded row is 0 and its eps 1e-12, which FP16 cannot hold: 0/0. A sum of squares also
#                    overflows FP16 early.
#   softmax          exp and its sum; the logits λH, whose rounding the exponential would magnify by λ; the mask.
#   final reduction  the score is a sum of D products of which many are tiny.
ISLANDS = {
    "norms": "x / max(‖x‖₂, eps) of V, U, A and B: Pow, ReduceSum, Clip, Sqrt, Div",
    "softmax": "the four softmax, their masks, and the products with λ before and with the mask after",
    "final reduction": "the score's products and their sum",
}
_NORM = {"Pow", "ReduceSum", "Clip", "Sqrt", "Div"}
# Values that users hand in or read stay float32; states, which only our own graphs read, are FP16.
_FLOAT32_ENDS = ["features", "scores"]


def island_nodes(graph: onnx.ModelProto) -> dict[str, list[str]]:
    """Island → names of its nodes in this graph."""
    nodes = graph.graph.node
    makes = {name: node.op_type for node in nodes for name in node.output}
    takes: dict[str, set[str]] = {}
    for node in nodes:
        for name in node.input:
            takes.setdefault(name, set()).add(node.op_type)

    def near(node: onnx.NodeProto, before: str, after: str) -> bool:
        """Whether a product's factor comes from `before` or the product goes to `after`."""
        return before in {makes.get(name) for name in node.input} or after in takes.get(node.output[0], set())

    products = [node for node in nodes if node.op_type == "Mul"]
    return {
        "norms": [node.name for node in nodes if node.op_type in _NORM and not node.name.endswith("score_ReduceSum")],
        "softmax": [node.name for node in nodes if node.op_type in ("Softmax", "Where")]
        + [node.name for node in products if near(node, "Softmax", "Where")],
        "final reduction": [node.name for node in nodes if node.name.endswith("score_ReduceSum")]
        + [node.name for node in products if "ReduceSum" in takes.get(node.output[0], set())],
    }


def match_nodes(graphs: Iterable[onnx.ModelProto], patterns: Sequence[str]) -> list[str]:
    """Names of the nodes that `--keep-fp32 NAME|REGEX` means. A pattern must match a whole name, `scorer/Su`.

    Raises InputError for a pattern that is no regular expression, or matches no node.
    """
    names = [node.name for graph in graphs for node in graph.graph.node if node.op_type != "Constant"]
    found: list[str] = []
    for pattern in patterns:
        try:
            matching = [name for name in names if name == pattern or re.fullmatch(pattern, name)]
        except re.error as error:
            raise InputError(f"'{pattern}' is neither a node's name nor a regular expression: {error}") from error
        if not matching:
            raise InputError(
                f"no node is named like '{pattern}'; caan inspect --layers scorer lists them: scorer/Su, …"
            )
        found += matching
    return found


def to_fp16(graph: onnx.ModelProto, keep_fp32: Sequence[str] = (), islands: Iterable[str] = ISLANDS) -> onnx.ModelProto:
    """A copy of a graph in FP16: weights, states and all nodes but the islands' and those named in `keep_fp32`.

    Raises ExportError, naming constant and node, if a constant that a node in FP16 needs would become 0 or infinite.
    """
    with needs("cpu", "the FP16 pass"):
        from onnxruntime.transformers.float16 import convert_float_to_float16
    graph = folded(graph)
    members = island_nodes(graph)
    wide = {*keep_fp32, *(name for island in islands for name in members[island])}
    _check_constants(graph, wide)
    converted = convert_float_to_float16(graph, keep_io_types=_FLOAT32_ENDS, node_block_list=sorted(wide))
    surgeon = gs.import_onnx(converted)
    _remove_round_trips(surgeon)
    result: onnx.ModelProto = gs.export_onnx(surgeon.cleanup().toposort())
    del result.graph.value_info[:]  # of the graph before; every tool infers it anyway
    return result


def folded(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with every computation on constants done, and constants as initializers: one form for all passes."""
    severity, G_LOGGER.severity = G_LOGGER.severity, G_LOGGER.CRITICAL  # it advises on the size of folded constants
    try:
        surgeon = gs.import_onnx(graph).fold_constants().cleanup().toposort()
    finally:
        G_LOGGER.severity = severity
    result: onnx.ModelProto = gs.export_onnx(surgeon)
    return result


def _check_constants(graph: onnx.ModelProto, wide: set[str]) -> None:
    values = {i.name: i for i in graph.graph.initializer if i.data_type == TensorProto.FLOAT}
    for node in graph.graph.node:
        for name in node.input:
            if name not in values or node.name in wide:
                continue
            value = onnx.numpy_helper.to_array(values[name])
            with np.errstate(over="ignore"):
                rounded = value.astype(np.float16)
            # A tiny weight may vanish, a single number has a meaning: an eps, a scale.
            vanished = value.size == 1 and value.any() and not rounded.any()
            if vanished or not np.isfinite(rounded).all():
                worst = float(value.reshape(-1)[np.argmax(np.abs(value))])
                becomes = "0" if vanished else "infinite"
                raise ExportError(
                    f"the constant {worst:g} of {node.name} ({name}) becomes {becomes} in FP16; keep that node in FP32:"
                    f" --keep-fp32 {node.name}"
                )


def _remove_round_trips(surgeon: Any) -> None:
    """FP32 → FP16 → FP32 becomes nothing."""
    for second in list(surgeon.nodes):
        first = _cast_before(second)
        if first is None:
            continue
        exact, back = first.inputs[0], second.outputs[0]
        for reader in list(back.outputs):
            reader.inputs = [exact if tensor is back else tensor for tensor in reader.inputs]
        if any(back is output for output in surgeon.outputs):
            (maker,) = exact.inputs
            maker.outputs = [back if tensor is exact else tensor for tensor in maker.outputs]
            for reader in list(exact.outputs):
                reader.inputs = [back if tensor is exact else tensor for tensor in reader.inputs]
            second.outputs.clear()


def _cast_before(node: Any) -> Any:
    """The cast to FP16 before this cast back to FP32; None if it is no such pair."""
    if node.op != "Cast" or node.attrs["to"] != TensorProto.FLOAT or not node.inputs[0].inputs:
        return None
    (before,) = node.inputs[0].inputs
    if before.op != "Cast" or before.attrs["to"] != TensorProto.FLOAT16 or before.inputs[0].dtype != np.float32:
        return None
    return before
