"""Checks of ONNX files before ONNX Runtime or TensorRT reads them: only graphs that caan exports are accepted.

Standard library only. Bundles are untrusted. A graph is rejected if it refers to other files, has custom operators or
control flow, or if its inputs and outputs differ from the expected ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from ._protobuf import fields_of
from .bundle import (
    EXPANDER,
    EXPLAINER,
    GRAPHS,
    IMAGES,
    INPUTS,
    MANIFEST,
    OUTPUTS,
    REGIONS,
    SIDE_GRAPHS,
    WORDS,
    Bundle,
    graph_file,
    state_widths,
)
from .errors import BundleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Field numbers and element types of onnx.proto.
_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 3, 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_TYPES = {1: "float32", 7: "int64", 10: "float16"}
_OWN_DOMAINS = ("", "ai.onnx")

Axes = tuple[str, ...]
Shape = tuple[int | None, ...]  # None: a dynamic axis


@dataclass(frozen=True)
class End:
    """An input or output of a graph."""

    dtype: str
    shape: Shape | None  # None if the graph gives none

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} ({', '.join('?' if size is None else str(size) for size in self.shape)})"


def read_graph(bundle: Bundle, name: str, precision: str) -> bytes:
    """The bytes of a bundle's graph, verified against the manifest's hash and by `check_graph`.

    Raises BundleError as `Bundle.graph`, `Bundle.content` and `check_graph`.
    """
    path = bundle.side_graph(name) if name in SIDE_GRAPHS else bundle.graph(name, precision)
    content = bundle.content(graph_file(name, precision))
    check_graph(bundle, name, path, content)
    return content


def check_graphs(bundle: Bundle) -> None:
    """Check every graph of a bundle, as `read_graph`, before a library other than the runtime reads one."""
    files = bundle.manifest["files"]
    for precision in bundle.precisions:
        for name in (*GRAPHS, *SIDE_GRAPHS):
            if graph_file(name, precision) in files:
                read_graph(bundle, name, precision)


def check_graph(bundle: Bundle, name: str, path: Path, content: bytes) -> None:
    """Raise BundleError, with the reason, for a file that is not a graph that caan exports.

    Rejected even if ONNX Runtime accepts them: data in other files, operators that ONNX doesn't define, and loops,
    branches and functions, which caan's graphs don't have and which may never terminate.
    """
    try:
        inputs, outputs = _ends(content)
    except _Foreign as foreign:
        raise BundleError(f"{path} holds {foreign}; do not trust this bundle") from None
    except (ValueError, IndexError) as error:
        raise BundleError(
            f"ONNX Runtime can't load {path}: it is not an ONNX graph; copy the bundle again, or export the checkpoint"
            " again"
        ) from error
    for what, ends, axes in zip(("input", "output"), (inputs, outputs), _axes(name), strict=True):
        _compare(bundle, name, path, what, ends, _shapes(bundle, axes))


def check_result(name: str, inputs: Mapping[str, NDArray[Any]], output: NDArray[Any]) -> None:
    """Raise BundleError if the axes of a graph's first output don't match its inputs, which would misassign results."""
    axes_in, axes_out = _axes(name)
    sizes = {
        axis: size for tensor, axes in axes_in.items() for axis, size in zip(axes, inputs[tensor].shape, strict=False)
    }
    tensor, axes = next(iter(axes_out.items()))
    expected = tuple(sizes[axis] for axis in axes)
    if output.shape[: len(axes)] != expected:
        raise BundleError(
            f"the {name} of this bundle made {tensor} of shape {output.shape} where {expected} was to be expected;"
            " export the checkpoint again"
        )


def _axes(name: str) -> tuple[Mapping[str, Axes], Mapping[str, Axes]]:
    """{tensor: dynamic axes} for a graph's inputs and for its outputs."""
    if name == EXPANDER:
        return {"regions": (IMAGES, REGIONS)}, dict([OUTPUTS["image_encoder"]])
    if name == EXPLAINER:
        pair = OUTPUTS["scorer"][1]
        maps = dict.fromkeys(("H", "Hu", "Hv"), (*pair, REGIONS, WORDS))
        return INPUTS["scorer"], {"scores": pair, **maps, "av": (*pair, REGIONS), "au": (*pair, WORDS)}
    return INPUTS[name], dict([OUTPUTS[name]])


def _shapes(bundle: Bundle, ends: Mapping[str, Axes]) -> dict[str, Shape]:
    """{tensor: shape}, dynamic axes first, then columns if a tensor has them."""
    widths = state_widths(bundle.config)
    columns = {
        "features": bundle.config["region_dim"],
        "regions": bundle.config["embed_dim"],
        "image_states": widths["image"],
        "text_states": widths["text"],
    }
    return {
        tensor: (*(None for _ in axes), *([columns[tensor]] if tensor in columns else []))
        for tensor, axes in ends.items()
    }


def _compare(
    bundle: Bundle, name: str, path: Path, what: str, ends: Mapping[str, End], expected: Mapping[str, Shape]
) -> None:
    def refuse(why: str) -> BundleError:
        return BundleError(f"{path} is not the {name} of a caan bundle: {why}; export the checkpoint again")

    for tensor in ends:
        if tensor not in expected:
            raise refuse(f"it has the {what} '{tensor[:80]}'")
    for tensor, shape in expected.items():
        if tensor not in ends:
            raise refuse(f"it has no {what} '{tensor}'")
        end = ends[tensor]
        dtypes = _dtypes(tensor, name)
        if end.dtype in dtypes and _differs_in_columns(end.shape, shape):
            raise BundleError(
                f"{bundle.folder / MANIFEST} does not fit its graphs: {tensor} has {end.shape[-1]} columns, the"
                f" config says {shape[-1]}; export the checkpoint again"
            )
        if end.shape != shape or end.dtype not in dtypes:
            raise refuse(f"{tensor} is {end}, not {End(' or '.join(dtypes), shape)}")


def _differs_in_columns(shape: Shape | None, expected: Shape) -> TypeGuard[Shape]:
    """Whether a shape differs from the expected one only in its last, fixed size."""
    if shape is None or shape[:-1] != expected[:-1] or len(shape) != len(expected):
        return False
    return None not in (shape[-1], expected[-1]) and shape[-1] != expected[-1]


def _dtypes(tensor: str, name: str) -> tuple[str, ...]:
    if tensor in ("tokens", "text_lengths", "image_lengths"):
        return ("int64",)
    return ("float32", "float16") if tensor.endswith("_states") and name in GRAPHS else ("float32",)


class _Foreign(Exception):  # noqa: N818
    """A construct that no graph of caan's has."""


def _ends(model: bytes) -> tuple[dict[str, End], dict[str, End]]:
    """The inputs and outputs of a model. Raises _Foreign, or ValueError or IndexError for invalid bytes."""
    fields = _Fields(memoryview(model))
    if fields.all(_MODEL_FUNCTIONS):
        raise _Foreign("functions, which no graph of caan's has")
    if fields.all(_MODEL_TRAINING):
        raise _Foreign("a graph for training, which no graph of caan's has")
    graph = _Fields(fields.merged(_MODEL_GRAPH))
    for node in graph.all(_GRAPH_NODE):
        _check_node(_Fields(node))
    if graph.all(_GRAPH_SPARSE):
        raise _Foreign("sparse weights, which no graph of caan's has")
    for tensor in graph.all(_GRAPH_INITIALIZER):
        _check_tensor(_Fields(tensor))
    inputs, outputs = (dict(map(_end, graph.all(number))) for number in (_GRAPH_INPUT, _GRAPH_OUTPUT))
    if not inputs or not outputs:
        raise ValueError("a graph without inputs or outputs")
    return inputs, outputs


def _check_node(node: _Fields) -> None:
    kind, domain = node.text(_NODE_TYPE), node.text(_NODE_DOMAIN)
    where = f"the node '{node.text(_NODE_NAME)[:80]}' ({kind[:40]})"
    if domain not in _OWN_DOMAINS:
        raise _Foreign(f"{where} of '{domain[:40]}', whose operators no graph of caan's has")
    for content in node.all(_NODE_ATTRIBUTE):
        attribute = _Fields(content)
        if any(attribute.all(number) for number in _ATTRIBUTE_GRAPHS):
            raise _Foreign(f"{where}, which runs a graph of its own; no graph of caan's has loops or branches")
        if any(attribute.all(number) for number in _ATTRIBUTE_SPARSE):
            raise _Foreign(f"{where} with sparse numbers, which no graph of caan's has")
        for number in _ATTRIBUTE_TENSORS:
            for tensor in attribute.all(number):
                _check_tensor(_Fields(tensor))


def _check_tensor(tensor: _Fields) -> None:
    if tensor.all(_TENSOR_EXTERNAL) or any(tensor.numbers(_TENSOR_LOCATION)):
        raise _Foreign("weights in another file")


def _end(content: memoryview) -> tuple[str, End]:
    info = _Fields(content)  # ValueInfoProto: name = 1, type = 2
    kind = _Fields(info.merged(2))  # TypeProto: tensor_type = 1; other fields are other kinds of values
    if kind.names() != {1}:
        return info.text(1), End("not a tensor", None)
    tensor = _Fields(kind.merged(1))  # elem_type = 1, shape = 2
    number = (tensor.numbers(1) or [0])[-1]
    dtype = _TYPES.get(number, f"of ONNX's type {number}")
    if not tensor.all(2):
        return info.text(1), End(dtype, None)
    sizes = [_Fields(axis).numbers(1) for axis in _Fields(tensor.merged(2)).all(1)]  # dim = 1, dim_value = 1
    return info.text(1), End(dtype, tuple(size[-1] if size else None for size in sizes))


class _Fields:
    """The fields of a message in protobuf's wire format, by number. Raises ValueError for invalid bytes."""

    def __init__(self, content: memoryview) -> None:
        self._found: dict[int, list[memoryview | int]] = {}
        for number, value in fields_of(content):
            self._found.setdefault(number, []).append(value)

    def names(self) -> set[int]:
        return set(self._found)

    def all(self, number: int) -> list[memoryview]:
        """Every occurrence of a field of bytes, text or messages."""
        values = self._found.get(number, [])
        if not all(isinstance(value, memoryview) for value in values):
            raise ValueError("a number in the place of bytes")
        return values  # type: ignore[return-value]

    def merged(self, number: int) -> memoryview:
        """A singular message field; parsers merge repeated ones, which equals concatenating their bytes."""
        values = self.all(number)
        return values[0] if len(values) == 1 else memoryview(b"".join(values))

    def numbers(self, number: int) -> list[int]:
        values = self._found.get(number, [])
        if not all(isinstance(value, int) for value in values):
            raise ValueError("bytes in the place of a number")
        return values  # type: ignore[return-value]

    def text(self, number: int) -> str:
        values = self.all(number)
        return bytes(values[-1]).decode("utf-8") if values else ""
