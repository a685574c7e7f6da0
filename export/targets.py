"""The two builders of engines, TensorRT and TensorRT for RTX, behind one adapter.

Both modules have the same API. Differences, as tested with tensorrt_rtx 1.7.1 on a machine without a GPU:

                        tensorrt                tensorrt-rtx
    builds              on the target GPU       ahead of time, for named compute capabilities or for 8.0 and newer
    version compatible  yes                     no: it needs a lean runtime that none of its wheels has
    hardware compatible yes                     no: "unsupported in TensorRT-RTX", a warning and no effect
    weight stripping    yes                     only with a GPU: compiles for the local one, and fails without one
    timing cache        yes                     no: it times nothing, the calls are deprecated and need a GPU
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .._machine import has_nvidia_driver
from ..engines.log import log_of
from ..engines.targets import TARGETS, TargetName, rtx_capabilities
from ..errors import InputError, MissingError, needs

if TYPE_CHECKING:
    from .._progress import Bar

VERSION_COMPATIBLE, HARDWARE_COMPATIBLE = "--version-compatible", "--hardware-compatible"
STRIP_WEIGHTS, TIMING_CACHE = "--strip-weights", "timing cache"

_RTX_LACKS = {
    VERSION_COMPATIBLE: "its engines load only in the version that built them",
    HARDWARE_COMPATIBLE: "its engines run on every GPU of compute capability 8.0 and newer, or on the named ones",
    TIMING_CACHE: "it builds without timing anything",
}


@dataclass(frozen=True)
class Target:
    """An installed TensorRT, and its capabilities on this machine."""

    name: TargetName
    module: ModuleType
    capabilities: tuple[str, ...]  # for ahead-of-time builds; empty: builds only for the local GPU
    lacks: dict[str, str]  # unsupported options, and why

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def update(self) -> str:
        """The command that installs the latest version."""
        return f"pip install -U {TARGETS[self.name].package}"

    @property
    def log(self) -> Any:
        """The logger of all builders: it collects errors in `log.errors` and prints nothing."""
        return log_of(self.module)

    def monitor(self, bar: Bar, profiles: Sequence[str]) -> Any:
        """TensorRT's progress monitor: updates a bar of total 1, shows the profile, can `cancel()`."""
        return _monitor_class(self.module)(bar, profiles)

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    def check_option(self, option: str) -> None:
        """Raise InputError for an unsupported option, which TensorRT itself would silently ignore."""
        if option in self.lacks:
            raise InputError(f"{self} has no {option}: {self.lacks[option]}; leave the option out")

    def check_capabilities(self, names: Sequence[str]) -> tuple[str, ...]:
        """Compute capabilities in the form of `--compute-capability` ("8.6"), sorted, without duplicates.

        Raises InputError, listing the supported ones, for any other.
        """
        if names and not self.capabilities:
            raise InputError(
                f"{self} builds only for the local GPU, so --compute-capability does not apply; leave it out, or use"
                " --target tensorrt-rtx"
            )
        for name in names:
            if name not in self.capabilities:
                raise InputError(
                    f"{self} has no compute capability '{name}'; it has: {', '.join(self.capabilities)}. For another"
                    " GPU, such as a 9.0, build on a machine with that GPU, using --target tensorrt"
                )
        return tuple(capability for capability in self.capabilities if capability in names)

    def capability(self, name: str) -> Any:
        """The module's ComputeCapability for a name such as "8.6"."""
        return getattr(self.module.ComputeCapability, f"SM{name.replace('.', '')}")


def open_target(name: str | None = None) -> Target:
    """A target by name; by default `tensorrt` if it is installed and a GPU is visible, else `tensorrt-rtx`.

    Raises InputError for an unknown name, MissingError for a target that is not installed or lacks its GPU.
    """
    chosen: TargetName = "tensorrt" if has_nvidia_driver() and find_spec("tensorrt") else "tensorrt-rtx"
    if name is not None:
        known = next((target for target in TARGETS if target == name), None)
        if known is None:
            raise InputError(f"unknown target '{name}'; known: {', '.join(TARGETS)}")
        chosen = known
    with needs(TARGETS[chosen].extra, f"building engines for the target '{chosen}'"):
        module = import_module(TARGETS[chosen].module)
    if chosen == "tensorrt-rtx":
        return Target(chosen, module, rtx_capabilities(module), _rtx_lacks())
    if not has_nvidia_driver():
        raise MissingError(
            "the target 'tensorrt' builds on the engine's target GPU, and no NVIDIA driver is visible here; use"
            " --target tensorrt-rtx, which needs no GPU"
        )
    return Target(chosen, module, (), {})


def _rtx_lacks() -> dict[str, str]:
    if has_nvidia_driver():
        return dict(_RTX_LACKS)
    return {**_RTX_LACKS, STRIP_WEIGHTS: "it strips weights only with an NVIDIA GPU, and no driver is visible here"}


@cache
def _monitor_class(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the module is known only at run time
        """Updates a bar with a build's progress, and cancels the build. TensorRT may call this from several threads."""

        def __init__(self, bar: Bar, profiles: Sequence[str]) -> None:
            super().__init__()
            self._bar, self._lock = bar, Lock()
            self._phases = _Phases(profiles)
            self._cancelled = False

        def cancel(self) -> None:
            self._cancelled = True

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            with self._lock:
                self._phases.start(phase, parent, steps)
                self._bar.set_postfix_str(self._phases.profile, refresh=False)
                self._bar.update(0)

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                self._bar.update(max(0, self._phases.step(phase, step) - self._bar.n))
            return not self._cancelled

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.finish(phase)

    return Monitor


class _Phases:
    """A build's progress. TensorRT's phases have steps and nested phases; the per-profile ones take most time."""

    _PROFILES, _NEXT_PROFILE = "Computing profile costs", "Timing tactics"

    def __init__(self, profiles: Sequence[str]) -> None:
        self._names = profiles
        self._begun = 0  # profiles started
        self._open: dict[str, tuple[str | None, int]] = {}  # phase → its parent and number of steps
        self._done: dict[str, int] = {}  # phase → completed steps

    @property
    def profile(self) -> str:
        """The profile being built; empty before the first."""
        return self._names[min(self._begun, len(self._names)) - 1] if self._begun and self._names else ""

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._open[name], self._done[name] = (parent, max(1, steps)), 0
        if (parent, name) == (self._PROFILES, self._NEXT_PROFILE):
            self._begun += 1

    def step(self, name: str | None, step: int) -> float:
        """Complete a step; returns the progress of the whole build, 0 to 1."""
        if name in self._open:
            self._done[name] = step + 1
        inside = 0.0  # progress of the current phase
        while name in self._open and name != self._PROFILES:
            parent, steps = self._open[name]
            inside = min(1.0, (self._done[name] + inside) / steps)
            name = parent
        if name != self._PROFILES or not self._begun:
            return 0.0
        # A profile has two phases: timing its tactics, then generating code, which reports no steps.
        return min(1.0, (self._begun - 1 + inside / 2) / max(1, len(self._names)))

    def finish(self, name: str) -> None:
        self._open.pop(name, None)
