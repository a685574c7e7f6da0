"""Reads scalar constants of an ONNX graph without the package onnx, which the runtime does not require.

Field and type numbers from onnx.proto: ModelProto.graph 7, GraphProto.initializer 5, TensorProto.dims 1, data_type 2,
float_data 4, raw_data 9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from ..._protobuf import fields_of

_GRAPH, _INITIALIZER, _DIMS, _DATA_TYPE, _FLOAT_DATA, _RAW_DATA = 7, 5, 1, 2, 4, 9
_FLOAT = 1  # TensorProto.DataType


def float_scalars(path: Path) -> set[float]:
    """A graph's scalar float32 initializers. Raises ValueError if the file is not an ONNX model."""
    content = memoryview(path.read_bytes())
    scalars = set()
    for graph in _inner(content, _GRAPH):
        for tensor in _inner(graph, _INITIALIZER):
            fields = dict(fields_of(tensor))  # keeps the last of repeated dims
            data = fields.get(_RAW_DATA, fields.get(_FLOAT_DATA))
            is_one = fields.get(_DIMS, 1) == 1 and fields.get(_DATA_TYPE) == _FLOAT
            if is_one and isinstance(data, memoryview) and len(data) == 4:
                scalars.add(struct.unpack("<f", data)[0])
    return scalars


def _inner(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for field, value in fields_of(message) if field == number and isinstance(value, memoryview))
