"""The layers that TensorRT fused a graph into, as its engine inspector reports them. Needs the GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..bundle import open_bundle, plan_file
from ..engines.record import engine_records
from ..engines.targets import installed_module
from ..errors import BundleError
from ..runtime.backends.tensorrt.choose_engine import choose_engine, this_machine
from .describe import Layer, Tensor

# The inspector names a type as "Half", or as "Row major linear FP16 format" if it has a context.
_TYPES = (
    ("int8", "INT8", "int8"),
    ("half", "FP16", "float16"),
    ("fp16", "FP16", "float16"),
    ("float", "FP32", "float32"),
    ("fp32", "FP32", "float32"),
)


def engine_layers(
    path: Path, graph: str, precision: str, *, trust_engines: bool = False
) -> tuple[str, list[Layer]] | None:
    """The plan of a graph in an engine of this precision, and its layers, each fused from many nodes.

    A layer computes in the narrowest type it reads. None if the bundle has no such engine; raises BundleError or
    MissingError if none of its engines loads on this machine.
    """
    bundle = open_bundle(path)
    if not any(record.precision == precision for record in engine_records(bundle)):
        return None
    record = choose_engine(bundle, precision, this_machine, trust_engines=trust_engines)
    trt = installed_module(record.target)
    plan = plan_file(graph, record.name)
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(bundle.content(plan))
    if engine is None:
        raise BundleError(
            f"TensorRT {record.version} does not load {path / plan}; build it again: {record.rebuild(bundle)}"
        )
    report = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return plan, [_layer(entry) for entry in json.loads(report)["Layers"]]


def _layer(entry: Any) -> Layer:
    if isinstance(entry, str):  # the engine was built without layer details
        return Layer(entry, "–", None, [])
    read = {_type(tensor)[0] for tensor in entry.get("Inputs", [])}
    narrowest = next((name for _, name, _ in _TYPES if name in read), None)
    return Layer(entry["Name"], entry.get("LayerType", "–"), narrowest, [_tensor(t) for t in entry.get("Outputs", [])])


def _tensor(entry: Any) -> Tensor:
    axes: list[int | str | None] = [None if size < 0 else size for size in entry.get("Dimensions", [])]
    return Tensor(entry["Name"], _type(entry)[1], axes)


def _type(entry: Any) -> tuple[str, str]:
    """A type's name in caan (FP16) and in NumPy (float16)."""
    datatype = str(entry.get("Format/Datatype", "?")).lower()
    return next(((name, dtype) for word, name, dtype in _TYPES if word in datatype), ("", datatype))
