"""Scalar constants of an ONNX graph, read without the package onnx, which the runtime does not need.

An ONNX file is a Protocol Buffers message: fields, each a number, a wire type and a value
(onnx.proto: ModelProto.graph 7, GraphProto.initializer 5, TensorProto.dims 1, data_type 2, float_data 4, raw_data 9).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_GRAPH, _INITIALIZER, _DIMS, _DATA_TYPE, _FLOAT_DATA, _RAW_DATA = 7, 5, 1, 2, 4, 9
_FLOAT = 1  # TensorProto.DataType
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def float_scalars(path: Path) -> set[float]:
    """The float32 initializers of a graph that are one number. Raises ValueError for what is not such a file."""
    content = memoryview(path.read_bytes())
    found = set()
    for graph in _inner(content, _GRAPH):
        for tensor in _inner(graph, _INITIALIZER):
            fields = dict(_fields(tensor))  # of repeated dims the last
            data = fields.get(_RAW_DATA, fields.get(_FLOAT_DATA))
            is_one = fields.get(_DIMS, 1) == 1 and fields.get(_DATA_TYPE) == _FLOAT
            if is_one and isinstance(data, memoryview) and len(data) == 4:
                found.add(struct.unpack("<f", data)[0])
    return found


def _inner(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for field, value in _fields(message) if field == number and isinstance(value, memoryview))


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(message) - at:
            raise ValueError("cut off")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")
