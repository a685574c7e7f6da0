"""Which of a bundle's engines can be used here, and why not: everything that can be told before a plan is loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..._built_plans import was_built_here
from ..._files import read_regular
from ..._machine import has_nvidia_driver
from ...bundle import GRAPHS, MANIFEST, Bundle, graph_file, plan_file
from ...errors import BundleError, CaanError, MissingError, install

# Target → Python module, extra that installs it. The first one is preferred: it is tuned for one kind of GPU.
MODULES = {"tensorrt": ("tensorrt", "gpu"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}

_TYPES = {
    "target": str,
    "version": str,
    "precision": str,
    "compute_capabilities": list,
    "options": dict,
    "profiles": dict,
    "onnx": dict,
}
# What an engine for TensorRT for RTX that names no compute capability runs on: its samples say "Ampere and later".
_RTX_DEFAULT = (8, 0)
_AMPERE = (8, 0)


@dataclass(frozen=True)
class EngineRecord:
    """What the manifest says of one engine."""

    name: str
    target: str
    version: str
    precision: str
    compute_capabilities: tuple[str, ...]  # none: those that the target builds for of itself
    options: dict[str, Any]
    profile_names: dict[str, list[str]]  # graph → names in TensorRT's order
    onnx: dict[str, str]  # graph → SHA-256 of the ONNX graph that it was built from
    checked: bool  # its scores were compared with the reference's on a GPU, and passed

    def rebuild(self, bundle: Bundle) -> str:
        """The command that builds it anew."""
        target = "" if self.target == "tensorrt" else f" --target {self.target}"
        return f"{build_command(bundle, self.precision)}{target}"


@dataclass(frozen=True)
class Machine:
    """What engines find here."""

    versions: Mapping[str, str]  # target → version of its module; a target that is not installed is not in it
    capability: str | None  # of the GPU, "8.6"; None without a GPU or its driver
    rtx_capabilities: tuple[str, ...] = ()  # those that TensorRT for RTX supports; empty where it is not installed


def build_command(bundle: Bundle, precision: str) -> str:
    """The command that adds an engine of this precision to a bundle."""
    data = " --calibration-data DIR" if precision == "int8" and precision not in bundle.precisions else ""
    return f"caan-build-engine {bundle.folder} --{precision}{data}"


def choose_engine(
    bundle: Bundle, precision: str, look: Callable[[], Machine], *, checked: bool = False, trust_engines: bool = False
) -> EngineRecord:
    """The bundle's first engine of this precision that can be loaded here; TensorRT before TensorRT for RTX.

    look: as `this_machine`; checked: only engines that passed their check on a GPU; trust_engines: also those that
    were not built here. Raises, if there is none,
    BundleError or MissingError for the one that would have been taken.
    """
    records = [r for r in engine_records(bundle) if r.precision == precision and (r.checked or not checked)]
    if not records:
        raise BundleError(
            f"{bundle.folder} has no TensorRT engine of precision '{precision}'; build one:"
            f" {build_command(bundle, precision)}"
        )
    machine, refusals = look(), []
    for record in sorted(records, key=lambda r: list(MODULES).index(r.target)):
        try:
            check_engine(record, bundle, machine)
            if not trust_engines:
                check_built_here(record, bundle)
        except CaanError as error:
            refusals.append(error)
        else:
            return record
    raise refusals[0]


def engine_records(bundle: Bundle) -> list[EngineRecord]:
    """Every engine of a bundle. Raises BundleError for an entry that is not as caan writes it."""
    engines = bundle.manifest.get("engines", {})
    if not isinstance(engines, dict):
        raise BundleError(f"{bundle.folder / MANIFEST} has no valid 'engines'; build the engines again")
    return [_read_record(name, entry, bundle) for name, entry in engines.items()]


def check_engine(record: EngineRecord, bundle: Bundle, machine: Machine) -> None:
    """Raise BundleError or MissingError, with the command that helps, if this engine can't be used here."""
    where, rebuild = f"the engine {record.name} of {bundle.folder}", record.rebuild(bundle)
    for graph in GRAPHS:
        entry = bundle.manifest["files"].get(graph_file(graph, record.precision))
        if entry is None or entry["sha256"] != record.onnx.get(graph):
            raise BundleError(f"{where} is stale: it was built from another {graph}; build it again: {rebuild}")
    _, extra = MODULES[record.target]
    if record.target not in machine.versions:
        raise MissingError(f"{where} needs {_title(record.target)}; {install(extra)}")
    if machine.capability is None:
        raise MissingError(
            f"{where} needs an NVIDIA GPU and its driver, and there is none here; see caan doctor, or use backend"
            " 'onnxruntime'"
        )
    installed = machine.versions[record.target]
    if not _version_fits(record, installed):
        raise BundleError(
            f"{where} was built with {_title(record.target)} {record.version}, installed is {installed}; build it"
            f" again: {rebuild}"
        )
    _check_capability(record, bundle, machine)


def check_built_here(record: EngineRecord, bundle: Bundle) -> None:
    """Raise BundleError for an engine from elsewhere: a plan is a program, and some bring one for the processor too."""
    if not all(was_built_here(bundle.hash_of(plan_file(graph, record.name))) for graph in GRAPHS):
        raise BundleError(
            f"the engine {record.name} of {bundle.folder} was not built here, and an engine is a program; if you trust"
            f" who built it, add --trust-engines (trust_engines=True), else build it again: {record.rebuild(bundle)}"
        )


def this_machine() -> Machine:
    """What engines find on this machine. Raises MissingError if there is a GPU, but no bindings to reach it."""
    modules = {target: module for target in MODULES if (module := installed_module(target)) is not None}
    rtx = modules.get("tensorrt-rtx")
    versions = {target: str(module.__version__) for target, module in modules.items()}
    return Machine(versions, _capability(), rtx_capabilities(rtx) if rtx is not None else ())


def installed_module(target: str) -> Any:
    """The Python module of a target, None where it is not installed or its libraries do not load."""
    try:
        return import_module(MODULES[target][0])
    except (ImportError, OSError):
        return None


def rtx_capabilities(trt: Any) -> tuple[str, ...]:
    """("7.5", "8.0", …): the members SM75, SM80, … of TensorRT for RTX."""
    found = [re.fullmatch(r"SM(\d+)(\d)", member) for member in trt.ComputeCapability.__members__]
    pairs = sorted((int(match[1]), int(match[2])) for match in found if match)
    return tuple(f"{major}.{minor}" for major, minor in pairs)


def has_checked_engine(path: Path, precision: str) -> bool:
    """Whether it is worth opening an engine where nobody asked for one: there is a driver, and one that was checked.

    A bundle that can't be read has none: whoever opens it for good says what is wrong.
    """
    if not has_nvidia_driver():
        return False
    with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        engines = json.loads(read_regular(path / MANIFEST))["engines"]
        return any(entry.get("precision") == precision and _is_checked(entry) for entry in engines.values())
    return False


def _read_record(name: str, entry: Any, bundle: Bundle) -> EngineRecord:
    def refuse(what: str) -> BundleError:
        return BundleError(f"{bundle.folder / MANIFEST} has no valid '{what}'; build the engine again")

    if not isinstance(entry, dict):
        raise refuse(f"engines.{name}")
    for key, kind in _TYPES.items():
        if not isinstance(entry.get(key), kind):
            raise refuse(f"engines.{name}.{key}")
    if entry["target"] not in MODULES:
        raise refuse(f"engines.{name}.target")
    for graph in GRAPHS:
        if plan_file(graph, name) not in bundle.manifest["files"]:
            raise BundleError(f"{bundle.folder / MANIFEST} does not list {plan_file(graph, name)}; build it again")
    try:
        names = {graph: [str(profile["name"]) for profile in entry["profiles"][graph]] for graph in GRAPHS}
    except (KeyError, TypeError) as error:
        raise refuse(f"engines.{name}.profiles") from error
    return EngineRecord(
        name,
        entry["target"],
        entry["version"],
        entry["precision"],
        tuple(str(capability) for capability in entry["compute_capabilities"]),
        entry["options"],
        names,
        entry["onnx"],
        _is_checked(entry),
    )


def _is_checked(entry: Mapping[str, Any]) -> bool:
    checks = entry.get("checks")
    return isinstance(checks, list) and any(isinstance(c, dict) and c.get("passed") is True for c in checks)


def _version_fits(record: EngineRecord, installed: str) -> bool:
    if record.version == installed:
        return True
    # TensorRT: a version compatible plan loads in the same and in later releases of its major version.
    built, here = _numbers(record.version), _numbers(installed)
    return bool(record.options.get("version_compatible")) and built[:1] == here[:1] and built <= here


def _check_capability(record: EngineRecord, bundle: Bundle, machine: Machine) -> None:
    assert machine.capability is not None
    here, named = _numbers(machine.capability), record.compute_capabilities
    where = f"the engine {record.name} of {bundle.folder}"
    if record.target == "tensorrt-rtx" and machine.capability not in machine.rtx_capabilities:
        raise BundleError(
            f"{where} can't run here: this GPU has compute capability {machine.capability}, TensorRT for RTX supports"
            f" {', '.join(machine.rtx_capabilities)}; use TensorRT: {build_command(bundle, record.precision)} --target"
            " tensorrt"
        )
    if record.target == "tensorrt-rtx" and not named:
        fits, built_for = here >= _RTX_DEFAULT, "8.0 and newer"
    elif record.options.get("hardware_compatible"):
        fits, built_for = here >= _AMPERE, "8.0 and newer"
    else:
        fits, built_for = not named or machine.capability in named, ", ".join(named)
    if not fits:
        raise BundleError(
            f"{where} is for compute capability {built_for}, this GPU has {machine.capability}; build it again:"
            f" {record.rebuild(bundle)} --compute-capability {machine.capability}"
        )


def _capability() -> str | None:
    if not has_nvidia_driver():
        return None
    from .cuda import Gpu

    return Gpu.open().capability


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _title(target: str) -> str:
    return {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT for RTX"}[target]
