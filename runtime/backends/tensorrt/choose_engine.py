"""Selects a bundle's engine that is usable here, with all checks that are possible before loading a plan."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...._files import read_regular
from ...._machine import has_nvidia_driver
from ....bundle import GRAPHS, MANIFEST, Bundle, plan_file
from ....engines.built_plans import was_built_here
from ....engines.record import EngineRecord, build_command, engine_records, is_checked, version_numbers
from ....engines.targets import TARGETS, TargetName, installed_module, rtx_capabilities
from ....errors import BundleError, CaanError, MissingError, install

# What an RTX engine without a named compute capability runs on: the samples say "Ampere and later".
_RTX_DEFAULT = (8, 0)
_AMPERE = (8, 0)


@dataclass(frozen=True)
class Machine:
    """What this machine offers engines."""

    versions: Mapping[TargetName, str]  # installed target → version of its module
    capability: str | None  # of the GPU, "8.6"; None without a GPU or its driver
    rtx_capabilities: tuple[str, ...] = ()  # supported by TensorRT for RTX; empty if not installed


def choose_engine(
    bundle: Bundle, precision: str, look: Callable[[], Machine], *, checked: bool = False, trust_engines: bool = False
) -> EngineRecord:
    """The bundle's first engine of this precision that is usable here; TensorRT before TensorRT for RTX.

    look: as `this_machine`; checked: only engines that passed their check on a GPU; trust_engines: also those built
    elsewhere. If there is none, raises BundleError or MissingError for the first candidate.
    """
    records = [r for r in engine_records(bundle) if r.precision == precision and (r.checked or not checked)]
    if not records:
        raise BundleError(
            f"{bundle.folder} has no TensorRT engine of precision '{precision}'; build one:"
            f" {build_command(bundle, precision)}"
        )
    machine, refusals = look(), []
    for record in sorted(records, key=lambda r: list(TARGETS).index(r.target)):
        try:
            check_engine(record, bundle, machine)
            if not trust_engines:
                check_built_here(record, bundle)
        except CaanError as error:
            refusals.append(error)
        else:
            return record
    raise refusals[0]


def check_engine(record: EngineRecord, bundle: Bundle, machine: Machine) -> None:
    """Raise BundleError or MissingError, with the command that fixes it, if this engine is not usable here."""
    where, rebuild = f"the engine {record.name} of {bundle.folder}", record.rebuild(bundle)
    if stale := record.stale_graphs(bundle):
        raise BundleError(f"{where} is stale: it was built from another {stale[0]}; build it again: {rebuild}")
    if record.target not in machine.versions:
        raise MissingError(f"{where} needs {record.title}; {install(TARGETS[record.target].extra)}")
    if machine.capability is None:
        raise MissingError(
            f"{where} needs an NVIDIA GPU and its driver, and there is none here; see caan doctor, or use backend"
            " 'onnxruntime'"
        )
    installed = machine.versions[record.target]
    if not record.version_fits(installed):
        raise BundleError(
            f"{where} was built with {record.title} {record.version}, installed is {installed}; build it"
            f" again: {rebuild}"
        )
    _check_capability(record, bundle, machine)


def check_built_here(record: EngineRecord, bundle: Bundle) -> None:
    """Raise BundleError for an engine built elsewhere: a plan is a program, and some contain CPU code too."""
    if not all(was_built_here(bundle.hash_of(plan_file(graph, record.name))) for graph in GRAPHS):
        raise BundleError(
            f"the engine {record.name} of {bundle.folder} was not built here, and an engine is a program; if you trust"
            f" who built it, add --trust-engines (trust_engines=True), else build it again: {record.rebuild(bundle)}"
        )


def this_machine() -> Machine:
    """Inspect this machine. Raises MissingError if there is a GPU, but no bindings for it."""
    modules = {target: module for target in TARGETS if (module := installed_module(target)) is not None}
    rtx = modules.get("tensorrt-rtx")
    versions = {target: str(module.__version__) for target, module in modules.items()}
    return Machine(versions, _capability(), rtx_capabilities(rtx) if rtx is not None else ())


def has_checked_engine(path: Path, precision: str) -> bool:
    """Whether `auto` should try an engine: there is a GPU driver, and the bundle has a checked engine.

    False for an unreadable bundle; opening it with another backend reports the error.
    """
    if not has_nvidia_driver():
        return False
    with suppress(OSError, ValueError, RecursionError, AttributeError, TypeError):
        engines = json.loads(read_regular(path / MANIFEST))["engines"]
        return any(entry.get("precision") == precision and is_checked(entry) for entry in engines.values())
    return False


def _check_capability(record: EngineRecord, bundle: Bundle, machine: Machine) -> None:
    assert machine.capability is not None
    here, named = version_numbers(machine.capability), record.compute_capabilities
    where = f"the engine {record.name} of {bundle.folder}"
    if record.target == "tensorrt-rtx" and machine.capability not in machine.rtx_capabilities:
        raise BundleError(
            f"{where} can't run here: this GPU has compute capability {machine.capability}, TensorRT for RTX supports"
            f" {', '.join(machine.rtx_capabilities)}; use TensorRT: {build_command(bundle, record.precision)} --target"
            " tensorrt"
        )
    if record.target == "tensorrt-rtx" and not named:
        fits, built_for = here >= _RTX_DEFAULT, "8.0 and newer"
    elif record.options.hardware_compatible:
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
