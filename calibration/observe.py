"""Activations at the inputs of an FP32 graph's matrix products.

ONNX Runtime's calibrators (`onnxruntime.quantization.calibrate`) don't work here: the histogram ones (entropy,
percentile) reject batches of different shapes, and captions have different lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .._onnxruntime import cpu_session, onnxruntime

Feed = Mapping[str, NDArray[Any]]
Batch = Mapping[str, NDArray[np.floating]]


def activation_inputs(graph: onnx.ModelProto) -> dict[str, list[str]]:
    """Node name → names of its activation inputs, for every MatMul of a graph.

    Initializers and outputs of Constant nodes are weights and are omitted; a tensor that enters a node twice is listed
    once.
    """
    constants = {tensor.name for tensor in graph.graph.initializer}
    constants |= {name for node in graph.graph.node if node.op_type == "Constant" for name in node.output}
    return {
        node.name: list(dict.fromkeys(name for name in node.input if name not in constants))
        for node in graph.graph.node
        if node.op_type == "MatMul"
    }


def observe(graph: onnx.ModelProto, tensors: Sequence[str], feeds: Iterable[Feed]) -> Iterator[Batch]:
    """Run a graph in ONNX Runtime on the CPU and yield the values of `tensors` for every feed.

    tensors: names of inputs, outputs or intermediate values; feeds: all of the graph's inputs by name, with shapes that
    may vary between feeds. Only one feed's values are in memory at a time. `graph` is not modified. Raises MissingError
    without onnxruntime.
    """
    onnxruntime("calibration")
    inputs = {value.name for value in graph.graph.input}
    computed = [name for name in tensors if name not in inputs]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    outputs = {value.name for value in graph.graph.output}
    # ONNX Runtime infers the type of an untyped output, so onnx need not infer it first.
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed if name not in outputs)
    session = cpu_session(exposed.SerializeToString(), purpose="calibration")
    for feed in feeds:
        values = dict(zip(computed, session.run(computed, dict(feed)), strict=True)) if computed else {}
        yield {name: feed[name] if name in inputs else values[name] for name in tensors}
