"""FP32 ONNX → INT8 ONNX: explicit Q/DQ around the matrix products, the rest as in FP16.

Quantised products read and write float32, and scales are float32: with Q/DQ in FP16, ONNX Runtime 1.20 to 1.28
truncates instead of rounding (rsum on Flickr8k 3.8 lower), and 1.29 does not load the graph.

Symmetric, zero point 0; weights per output channel, activations per tensor: the products of a pair (H, Hu U Q3, …) are
quantised like those with weights. The recurrence of the GRU, the embedding and the two weighted sums at the end stay
FP16 (docs/precision.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ExportError, needs
from .fp16 import folded, to_fp16

# Products that stay FP16. An attention weight is one of dozens that sum to 1: steps of 1/127 lose most of it. On
# Flickr8k these are among the three costliest products, for 3 % of the scorer's multiply-adds.
STAY_FP16 = ("scorer/av_V", "scorer/au_U")
# Scales must be exact in FP16: below its smallest normal number, 2⁻¹⁴, they would lose digits and then underflow.
SMALLEST_SCALE = 2.0**-14
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def quantizable(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes quantised by default: all matrix products except STAY_FP16."""
    return [node.name for node in graph.graph.node if node.op_type == "MatMul" and node.name not in STAY_FP16]


def to_int8(
    graph: onnx.ModelProto, ranges: Mapping[str, float], nodes: Collection[str], keep_fp32: Sequence[str] = ()
) -> onnx.ModelProto:
    """A copy of an FP32 graph with these nodes in INT8 and the rest converted by `to_fp16`.

    ranges: tensor → the |value| that maps to 127, for every activation that `nodes` read. Raises ExportError if a range
    is missing, and as `to_fp16`.
    """
    with needs("cpu", "the INT8 pass"):
        from onnxruntime.quantization import CalibrationMethod, QuantType
        from onnxruntime.quantization.calibrate import TensorsData
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    graph = folded(graph)
    targets = [node for node in graph.graph.node if node.name in set(nodes) - set(keep_fp32)]
    constants = {initializer.name for initializer in graph.graph.initializer}
    missing = {name for node in targets for name in node.input if name not in constants} - set(ranges)
    if missing:
        raise ExportError(f"no range was calibrated for {sorted(missing)[0]}; calibrate again: remove the cache")
    if targets:
        limits = {name: (np.float32(-value), np.float32(value)) for name, value in ranges.items()}
        quantizer = QDQQuantizer(
            graph,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
            nodes_to_quantize=[node.name for node in targets],
            nodes_to_exclude=[],
            op_types_to_quantize=["MatMul"],
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
                "MinimumRealRange": 2 * 127 * SMALLEST_SCALE,
                "TensorQuantOverrides": _left_weights(targets, constants),
            },
        )
        quantizer.quantize_model()
        graph = quantizer.model.model
        _bypass_other_readers(graph, {node.name for node in targets})
    quantized = [node for node in graph.graph.node if node.op_type in _QDQ]
    _round_scales(graph, {node.input[1] for node in quantized})
    graph = to_fp16(graph, [*keep_fp32, *(node.name for node in [*quantized, *targets])])
    _round_inputs(graph)
    return graph


def _round_scales(graph: onnx.ModelProto, scales: Collection[str]) -> None:
    """Round scales to FP16 values, so that a multiplication in FP16 uses the same number."""
    for initializer in graph.graph.initializer:
        if initializer.name in scales:
            rounded = numpy_helper.to_array(initializer).astype(np.float16).astype(np.float32)
            initializer.CopyFrom(numpy_helper.from_array(rounded, initializer.name))


def _round_inputs(graph: onnx.ModelProto) -> None:
    """Round to FP16 before quantising, so that a product's V equals the V of the states."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            name = node.input[0]
            if name not in makers or makers[name].op_type != "Cast":
                half, rounded = f"{name}_half", f"{name}_rounded"
                nodes.append(helper.make_node("Cast", [name], [half], f"{half}_cast", to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [half], [rounded], f"{rounded}_cast", to=TensorProto.FLOAT))
                node.input[0] = rounded
        nodes.append(node)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _bypass_other_readers(graph: onnx.ModelProto, targets: Collection[str]) -> None:
    """Let nodes that are not quantised read the value before the Q/DQ.

    The quantiser rewires all of a tensor's readers to its Q/DQ: V and U would be in INT8 steps in the states too.
    """
    makers = {name: node for node in graph.graph.node for name in node.output}
    for node in graph.graph.node:
        if node.op_type in _QDQ or node.name in targets:
            continue
        for number, name in enumerate(node.input):
            if name in makers and makers[name].op_type == "DequantizeLinear":
                quantized = makers[name].input[0]
                if quantized in makers:  # an activation; a weight has only a DQ
                    node.input[number] = makers[quantized].input[0]


def _left_weights(nodes: Sequence[onnx.NodeProto], constants: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """Per-tensor scales for weights on the left of a product: their columns are summed over."""
    from onnxruntime.quantization import QuantType

    override = {"quant_type": QuantType.QInt8, "symmetric": True}
    return {node.input[0]: [override] for node in nodes if node.input[0] in constants}
