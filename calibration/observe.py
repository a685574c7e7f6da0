"""What flows into the matrix products of an FP32 graph.

ONNX Runtime's own calibrators (`onnxruntime.quantization.calibrate`) can't be used here: those that take histograms
(entropy, percentile) refuse batches of different shapes, and captions have different lengths.
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
    """Node name → names of the inputs that are activations, for every MatMul of a graph.

    Initializers and the outputs of Constant nodes are weights and are left out; a tensor that enters a node twice is
    named once.
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

    tensors: names of inputs, outputs or inner values of the graph; feeds: all of the graph's inputs by name, of
    shapes that may differ from feed to feed. One feed's values are in memory at a time. `graph` stays as it is.
    Raises MissingError without onnxruntime.
    """
    onnxruntime("calibration")
    inputs = {value.name for value in graph.graph.input}
    wanted = [name for name in tensors if name not in inputs]
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    outputs = {value.name for value in graph.graph.output}
    # ONNX Runtime infers the type of an output that names none, so onnx need not infer it first.
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in outputs)
    session = cpu_session(exposed.SerializeToString(), purpose="calibration")
    for feed in feeds:
        values = dict(zip(wanted, session.run(wanted, dict(feed)), strict=True)) if wanted else {}
        yield {name: feed[name] if name in inputs else values[name] for name in tensors}
