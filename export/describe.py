"""A bundle's contents, from its manifest and, if the package onnx is installed, from its graphs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import combinations
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._schema import MisfitError, typed
from ..bundle import (
    CAPTIONS,
    GRAPHS,
    IMAGES,
    MANIFEST,
    REGIONS,
    SIDE_GRAPHS,
    WORDS,
    Bundle,
    from_bundle,
    graph_file,
)
from ..engines.profiles import Profile
from ..engines.record import EngineRecord, engine_records
from ..errors import BundleError, needs
from ..manifest import CheckRecord, Manifest, checked

if TYPE_CHECKING:
    import onnx

# Stand-ins for the dynamic axes during shape inference: primes that are no layer's width, so that an inferred size
# identifies the axes in it.
_STAND_INS = {IMAGES: 10007, REGIONS: 10009, CAPTIONS: 10037, WORDS: 10039}
_AXES = {2 * size: f"2·{axis}" for axis, size in _STAND_INS.items()} | {
    prod(_STAND_INS[axis] for axis in axes): "·".join(axes)
    for count in range(1, len(_STAND_INS) + 1)
    for axes in combinations(_STAND_INS, count)
}


@dataclass(frozen=True)
class Tensor:
    """A value of a graph. An axis is a size, a name, a product of names such as "images·regions", or None if
    unknown."""

    name: str
    dtype: str  # NumPy's name
    axes: list[int | str | None]


@dataclass(frozen=True)
class Ends:
    """A graph's inputs and outputs."""

    inputs: list[Tensor]
    outputs: list[Tensor]


@dataclass(frozen=True)
class Layer:
    """A node of a graph, and the type it computes in: INT8, FP16 or FP32, None if it doesn't compute on floats."""

    name: str
    op: str
    computes_in: str | None
    outputs: list[Tensor]


@dataclass(frozen=True)
class Description:
    """Everything `caan inspect` shows of a bundle."""

    bundle: Bundle
    manifest: Manifest
    ends: dict[str, dict[str, Ends]] | None  # precision → graph → inputs and outputs; None without onnx
    checks: dict[str, list[CheckRecord]]  # of each engine
    profiles: dict[str, dict[str, list[Profile]]]  # engine → graph → profiles
    stale: dict[str, list[str]]  # engine → graphs that changed since it was built

    def as_dict(self) -> dict[str, Any]:
        graphs = None
        if self.ends is not None:
            graphs = {p: {name: asdict(ends) for name, ends in by_graph.items()} for p, by_graph in self.ends.items()}
        return {
            "bundle": str(self.bundle.folder),
            "manifest": self.bundle.manifest,
            "graphs": graphs,
            "stale": self.stale,
        }


def describe(path: Path) -> Description:
    """Open a bundle, verify its files, and describe it.

    Raises BundleError if it is damaged, as `open_bundle`, or if the manifest's precisions and engines are malformed.
    """

    def read(bundle: Bundle) -> Description:
        engines = engine_records(bundle)
        manifest = checked(bundle.manifest, Manifest, bundle.folder / MANIFEST)
        checks = {record.name: _checks(bundle, record) for record in engines}
        profiles = {record.name: _profiles(bundle, record) for record in engines}
        stale = {record.name: record.stale_graphs(bundle) for record in engines}
        return Description(bundle, manifest, _all_ends(bundle), checks, profiles, stale)

    return from_bundle(path, read)


def describe_layers(path: Path, graph: str, precision: str) -> list[Layer]:
    """The nodes of one graph in execution order, without constants.

    Raises MissingError without the package onnx, BundleError if the bundle is damaged or lacks this precision.
    """
    with needs("export", "the layers of a graph"):
        from .audit import audit

    def read(bundle: Bundle) -> list[Layer]:
        with _graph(bundle.graph(graph, precision)) as model:
            types = audit(model, _STAND_INS[REGIONS], _STAND_INS[WORDS]).types
            tensors = _all_tensors(model)
            return [
                Layer(
                    node.name,
                    node.op_type,
                    types.get(node.name),
                    [tensors.get(name, Tensor(name, "?", [])) for name in node.output if name],
                )
                for node in model.graph.node
                if node.op_type != "Constant"
            ]

    return from_bundle(path, read)


def _checks(bundle: Bundle, record: EngineRecord) -> list[CheckRecord]:
    try:
        return typed(record.checks, list[CheckRecord])
    except MisfitError as misfit:
        where = f"{bundle.folder / MANIFEST} has no valid 'engines.{record.name}.checks{misfit.path}'"
        raise BundleError(f"{where}; build the engine again: {record.rebuild(bundle)}") from misfit


def _profiles(bundle: Bundle, record: EngineRecord) -> dict[str, list[Profile]]:
    try:
        return record.ranges()
    except (KeyError, ValueError) as error:  # wrong inputs, or three shapes of different lengths
        where = f"{bundle.folder / MANIFEST} has no valid 'engines.{record.name}.profiles'"
        raise BundleError(f"{where}; build the engine again: {record.rebuild(bundle)}") from error


def _all_ends(bundle: Bundle) -> dict[str, dict[str, Ends]] | None:
    if find_spec("onnx") is None:
        return None

    def ends(file: Path) -> Ends:
        with _graph(file) as model:
            return Ends([_tensor(v) for v in model.graph.input], [_tensor(v) for v in model.graph.output])

    result = {p: {graph: ends(bundle.graph(graph, p)) for graph in GRAPHS} for p in bundle.precisions}
    for graph in SIDE_GRAPHS:
        if "fp32" in result and graph_file(graph, "fp32") in bundle.manifest["files"]:
            result["fp32"][graph] = ends(bundle.side_graph(graph))
    return result


def _all_tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    """All values of a graph with inferrable type and shape."""
    from .audit import with_sizes

    inferred = with_sizes(model, _STAND_INS).graph
    return {value.name: _tensor(value) for value in [*inferred.value_info, *inferred.output]}


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    import onnx

    kind = value.type.tensor_type
    axes: list[int | str | None] = []
    for dimension in kind.shape.dim:
        size = dimension.dim_value
        name = None if dimension.dim_param.startswith("unk__") else dimension.dim_param or None
        axes.append(_AXES.get(size, size) if dimension.HasField("dim_value") else name)
    return Tensor(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, axes)


@contextmanager
def _graph(file: Path) -> Iterator[onnx.ModelProto]:
    """Load a graph for use in the block. An error in the block becomes a BundleError that names the file."""
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)  # never read other files that an untrusted graph names
        onnx.checker.check_model(model)
        yield model
    except Exception as error:  # protobuf's decoder and ONNX's inference share no exception type
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(f"{file} can't be read as ONNX ({reason}); export the checkpoint again") from error
