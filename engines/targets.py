"""The two TensorRT variants that build and run engines: their names, and which are installed."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, Literal, NamedTuple

TargetName = Literal["tensorrt", "tensorrt-rtx"]


class TargetNames(NamedTuple):
    """A target's names."""

    title: str
    module: str
    package: str
    extra: str  # caan's extra that installs it


# In order of preference: TensorRT tunes for one kind of GPU.
TARGETS: dict[TargetName, TargetNames] = {
    "tensorrt": TargetNames("TensorRT", "tensorrt", "tensorrt", "gpu"),
    "tensorrt-rtx": TargetNames("TensorRT for RTX", "tensorrt_rtx", "tensorrt-rtx-cu13", "rtx"),
}


def installed_module(target: TargetName) -> Any:
    """A target's Python module; None if it is not installed or its libraries do not load."""
    try:
        return import_module(TARGETS[target].module)
    except (ImportError, OSError):
        return None


def rtx_capabilities(trt: Any) -> tuple[str, ...]:
    """("7.5", "8.0", …): the members SM75, SM80, … of TensorRT for RTX; NONE and CURRENT name no GPU."""
    matches = [re.fullmatch(r"SM(\d+)(\d)", member) for member in trt.ComputeCapability.__members__]
    pairs = sorted((int(match[1]), int(match[2])) for match in matches if match)
    return tuple(f"{major}.{minor}" for major, minor in pairs)
