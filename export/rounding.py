"""An FP16 or INT8 graph with every rounding to FP16 made explicit, so that ONNX Runtime's CPU provider applies it.

That provider has no FP16 arithmetic: it runs such nodes in float32 and removes the casts between them, even explicit
ones. An accuracy gate on the original graph would see neither rounding nor overflow.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from .fp16 import as_onnx

# These move values that are rounded already. DequantizeLinear does not round on a GPU: TensorRT multiplies in INT8 and
# scales the sum.
_NO_ROUNDING = {
    "Concat", "ConstantOfShape", "DequantizeLinear", "Expand", "Gather", "GatherElements", "Reshape", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def with_explicit_rounding(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The same function in float32, with every value that a node computes in FP16 rounded to FP16.

    Inputs and outputs keep their types. The recurrence inside a GRU node is not rounded.
    """
    surgeon = gs.import_onnx(onnx.shape_inference.infer_shapes(graph, strict_mode=True))
    original_nodes = list(surgeon.nodes)
    ends = {id(tensor) for tensor in [*surgeon.inputs, *surgeon.outputs]}
    rounder = _Rounder(surgeon)
    for tensor in surgeon.tensors().values():
        if isinstance(tensor, gs.Constant) and tensor.dtype == np.float16:
            tensor.values = tensor.values.astype(np.float32)
    for node in original_nodes:
        if node.op == "Cast" and node.attrs["to"] == TensorProto.FLOAT16:
            node.attrs["to"] = TensorProto.FLOAT  # its input is rounded below
        if node.op == "ConstantOfShape" and node.outputs[0].dtype == np.float16:
            node.attrs["value"] = gs.Constant(f"{node.name}_value", node.attrs["value"].values.astype(np.float32))
        for number, tensor in enumerate(node.outputs):
            if tensor.dtype == np.float16:
                if node.op not in _NO_ROUNDING:
                    rounder.round(node, number)
                if id(tensor) not in ends:
                    tensor.dtype = np.float32
    rounder.convert_ends()
    return as_onnx(surgeon, graph)


class _Rounder:
    def __init__(self, surgeon: gs.Graph) -> None:
        self.surgeon = surgeon
        self.axis = gs.Constant("rounding_axis", np.zeros(1, np.int64))

    def round(self, node: gs.Node, number: int) -> None:
        """Insert the rounding between a node's output and its consumers.

        float32 → FP16 → two no-op nodes → float32: without them ONNX Runtime removes the casts.
        """
        tensor = node.outputs[number]
        exact = gs.Variable(f"{tensor.name}_exact", np.float32)
        node.outputs[number] = exact
        rounded = self._then("Cast", exact, f"{tensor.name}_half", to=TensorProto.FLOAT16)
        wrapped = self._then("Unsqueeze", rounded, f"{tensor.name}_wrapped")
        unwrapped = self._then("Squeeze", wrapped, f"{tensor.name}_unwrapped")
        self.surgeon.nodes.append(
            gs.Node("Cast", f"{tensor.name}_rounding", {"to": TensorProto.FLOAT}, inputs=[unwrapped], outputs=[tensor])
        )

    def convert_ends(self) -> None:
        """Widen FP16 inputs and narrow FP16 outputs; neither changes a value."""
        for tensor in [t for t in self.surgeon.inputs if t.dtype == np.float16]:
            readers = list(tensor.outputs)
            wide = self._then("Cast", tensor, f"{tensor.name}_wide", to=TensorProto.FLOAT, dtype=np.float32)
            for reader in readers:
                reader.inputs = [wide if t is tensor else t for t in reader.inputs]
        for number, tensor in enumerate(self.surgeon.outputs):
            if tensor.dtype != np.float16:
                continue
            narrow = gs.Variable(tensor.name, np.float16, tensor.shape)
            tensor.name, tensor.dtype = f"{tensor.name}_wide", np.float32
            self.surgeon.nodes.append(
                gs.Node("Cast", f"{narrow.name}_narrow", {"to": TensorProto.FLOAT16}, inputs=[tensor], outputs=[narrow])
            )
            self.surgeon.outputs[number] = narrow

    def _then(
        self, op: str, tensor: gs.Tensor, name: str, *, to: int | None = None, dtype: type = np.float16
    ) -> gs.Variable:
        result = gs.Variable(name, dtype)
        inputs = [tensor] if to is not None else [tensor, self.axis]
        self.surgeon.nodes.append(gs.Node(op, name, {} if to is None else {"to": to}, inputs=inputs, outputs=[result]))
        return result
