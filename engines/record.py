"""The manifest's record of an engine: plans for a bundle's three graphs, built by one target in one precision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import field

from .._schema import MisfitError, typed
from ..bundle import GRAPHS, MANIFEST, Bundle, graph_file, plan_file
from ..errors import BundleError
from .profiles import Profile
from .targets import TARGETS, TargetName

NOT_RUN = "engine not run: no NVIDIA GPU here"


class EngineOptions(msgspec.Struct, frozen=True):
    """How an engine was built."""

    optimization_level: int = 3  # 0 to 5
    workspace_mib: int | None = None  # device memory for a layer's workspace; None: TensorRT's default
    version_compatible: bool = False  # later TensorRT versions load its plans
    hardware_compatible: bool = False  # so do other GPUs, from compute capability 8.0
    stripped: bool = False  # without weights, which are taken from the ONNX graphs on loading


class ShapeRange(msgspec.Struct, frozen=True):
    """The shapes of an input tensor that a profile takes."""

    min: list[int]
    opt: list[int]  # the shape it is tuned for
    max: list[int]


class ProfileRecord(msgspec.Struct, frozen=True):
    """One of a graph's profiles."""

    name: str
    shapes: dict[str, ShapeRange]  # of each input tensor

    @classmethod
    def of(cls, profile: Profile) -> ProfileRecord:
        return typed(profile.as_dict(), cls)


class EngineRecord(msgspec.Struct, frozen=True):
    """An entry of a manifest's `engines`. Its key is the engine's name and the folder of its plans.

    `checks` are the accuracy gate's results for its plans on a GPU; `run` says why there are none yet.
    """

    name: str  # the entry's key, not stored in it
    target: TargetName
    version: str  # of the target that built it
    precision: str
    compute_capabilities: list[str]  # "8.6"; empty: the target's defaults
    options: EngineOptions
    profiles: dict[str, list[ProfileRecord]]  # graph → its profiles in TensorRT's order
    onnx: dict[str, str]  # graph → SHA-256 of the ONNX file it was built from
    checks: list[dict[str, Any]] = field(default_factory=list)
    run: str | None = None

    def as_entry(self) -> dict[str, Any]:
        """The manifest's entry."""
        entry: dict[str, Any] = msgspec.to_builtins(self)
        del entry["name"]
        return entry

    @property
    def checked(self) -> bool:
        """Whether its scores were compared with the reference's on a GPU, and passed."""
        return is_checked({"checks": self.checks})

    @property
    def title(self) -> str:
        return TARGETS[self.target].title

    def ranges(self) -> dict[str, list[Profile]]:
        """{graph: profiles}. Raises ValueError or KeyError if shapes do not match the graph's inputs."""
        return {
            graph: [
                Profile.of_shapes(graph, p.name, {t: (s.min, s.opt, s.max) for t, s in p.shapes.items()}) for p in own
            ]
            for graph, own in self.profiles.items()
        }

    def stale_graphs(self, bundle: Bundle) -> list[str]:
        """Graphs whose ONNX file is no longer the one the engine was built from."""
        files = bundle.manifest["files"]

        def is_current(graph: str) -> bool:
            entry = files.get(graph_file(graph, self.precision))
            return entry is not None and entry["sha256"] == self.onnx.get(graph)

        return [graph for graph in GRAPHS if not is_current(graph)]

    def rebuild(self, bundle: Bundle) -> str:
        """The command that rebuilds it."""
        target = "" if self.target == "tensorrt" else f" --target {self.target}"
        return f"{build_command(bundle, self.precision)}{target}"

    def version_fits(self, installed: str) -> bool:
        """Whether this version of the target loads the plans."""
        if self.version == installed:
            return True
        # A version-compatible TensorRT plan loads in its own and later releases of the same major version.
        built, here = version_numbers(self.version), version_numbers(installed)
        return self.options.version_compatible and built[:1] == here[:1] and built <= here


def engine_name(target: str, precision: str, capabilities: Sequence[str]) -> str:
    """An engine's name and folder in a bundle: `tensorrt-rtx-fp16`, `tensorrt-rtx-int8-sm86-sm89`."""
    return "-".join([target, precision, *(f"sm{capability.replace('.', '')}" for capability in capabilities)])


def engine_records(bundle: Bundle) -> list[EngineRecord]:
    """The records of a bundle's engines. Raises BundleError for an invalid entry."""
    engines = bundle.manifest.get("engines", {})
    if not isinstance(engines, dict):
        raise BundleError(f"{bundle.folder / MANIFEST} has no valid 'engines'; build the engines again")
    return [_read(name, entry, bundle) for name, entry in engines.items()]


def build_command(bundle: Bundle, precision: str) -> str:
    """The command that adds an engine of this precision to a bundle."""
    data = " --calibration-data DIR" if precision == "int8" and precision not in bundle.precisions else ""
    return f"caan-build-engine {bundle.folder} --{precision}{data}"


def is_checked(entry: Mapping[str, Any]) -> bool:
    """Whether a manifest's entry holds a passed check."""
    checks = entry.get("checks")
    return isinstance(checks, list) and any(isinstance(c, dict) and c.get("passed") is True for c in checks)


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _read(name: str, entry: Any, bundle: Bundle) -> EngineRecord:
    path = bundle.folder / MANIFEST

    def refuse(key: str) -> BundleError:
        return BundleError(f"{path} has no valid '{f'engines.{name}.{key}'.removesuffix('.')}'; build the engine again")

    if not isinstance(entry, dict):
        raise refuse("")
    try:
        record = typed({**entry, "name": name}, EngineRecord)
    except MisfitError as misfit:
        raise refuse(misfit.path) from misfit
    for graph in GRAPHS:
        if plan_file(graph, name) not in bundle.manifest["files"]:
            raise BundleError(f"{path} does not list {plan_file(graph, name)}; build the engine again")
    if set(GRAPHS) - set(record.profiles):
        raise refuse("profiles")
    return record
