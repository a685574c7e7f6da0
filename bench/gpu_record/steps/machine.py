"""What the machine is: GPU, driver, packages, which of caan's backends work."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from typing import Any

from ...._machine import has_nvidia_driver
from ....runtime.doctor import diagnose
from ..plan import Asked, Put

_PACKAGES = (
    "numpy",
    "click",
    "platformdirs",
    "psutil",
    "nvidia-ml-py",
    "tabulate",
    "tqdm",
    "pytest",
    "hypothesis",
    "filelock",
)


def run(asked: Asked, put: Put) -> None:
    """One row for each thing."""
    found = diagnose()
    put("machine", {"": found.machine})
    put("GPU, by its driver", {"": _by_driver()})
    put(
        "GPU, by PyTorch",
        {"": _gpu() if has_nvidia_driver() else "no driver of an NVIDIA GPU: libcuda.so.1 does not load"},
    )
    put("nvcc", {"": _told("nvcc", "--version").splitlines()[-1]})
    put("ncu", {"": _told("ncu", "--version").splitlines()[-1]})
    versions = found.packages | {name: _version(name) for name in _PACKAGES}
    put("packages", {"": ", ".join(f"{name} {version or '–'}" for name, version in versions.items())})
    for check in found.checks:
        put(check.name, {"": f"{'✓' if check.ok else '✗'} {check.detail}"})


def _by_driver() -> str:
    """What NVIDIA's driver says of the first GPU, as far as it does."""
    try:
        import pynvml
    except ImportError:
        return "nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return str(error)
    try:
        gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
        asked: dict[str, Callable[[], object]] = {
            "name": lambda: pynvml.nvmlDeviceGetName(gpu),
            "compute capability": lambda: ".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(gpu))),
            "driver": pynvml.nvmlSystemGetDriverVersion,
            "memory, MiB": lambda: pynvml.nvmlDeviceGetMemoryInfo(gpu).total // 2**20,
            "maximum SM clock, MHz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM),
            "maximum memory clock, MHz": lambda: pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM),
            "power limit, W": lambda: pynvml.nvmlDeviceGetPowerManagementLimit(gpu) / 1000,
            "ECC (current, pending)": lambda: pynvml.nvmlDeviceGetEccMode(gpu),
            "MIG (current, pending)": lambda: pynvml.nvmlDeviceGetMigMode(gpu),
            "persistence mode": lambda: pynvml.nvmlDeviceGetPersistenceMode(gpu),
        }
        return ", ".join(f"{name} {_or_dash(ask, pynvml.NVMLError)}" for name, ask in asked.items())
    except pynvml.NVMLError as error:
        return str(error)
    finally:
        pynvml.nvmlShutdown()


def _or_dash(ask: Callable[[], object], refusal: type[Exception]) -> object:
    """Not every GPU answers every question."""
    try:
        return ask()
    except refusal:
        return "–"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"PyTorch {torch.__version__} sees none"
    it: Any = torch.cuda.get_device_properties(0)
    return (
        f"{it.name}, compute capability {it.major}.{it.minor}, {it.multi_processor_count} multiprocessors,"
        f" {it.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}, PyTorch {torch.__version__}"
    )


def _told(*command: str) -> str:
    """What a program says; or that it is not there."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return (done.stdout or done.stderr).strip() or f"{command[0]} says nothing, exit code {done.returncode}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
