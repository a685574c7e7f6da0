"""The machine: GPU, driver, packages, and which of caan's backends work."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from typing import Any

from ...._machine import has_nvidia_driver
from ....runtime.doctor import diagnose
from ..plan import Put, StepSettings

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


def run(settings: StepSettings, put: Put) -> None:
    """One row for each property."""
    diagnosis = diagnose()
    put("machine", {"": diagnosis.machine})
    put("GPU, by its driver", {"": _by_driver()})
    put(
        "GPU, by PyTorch",
        {"": _gpu() if has_nvidia_driver() else "no NVIDIA driver: libcuda.so.1 does not load"},
    )
    put("nvcc", {"": _output_of("nvcc", "--version").splitlines()[-1]})
    put("ncu", {"": _output_of("ncu", "--version").splitlines()[-1]})
    versions = diagnosis.packages | {name: _version(name) for name in _PACKAGES}
    put("packages", {"": ", ".join(f"{name} {version or '–'}" for name, version in versions.items())})
    for check in diagnosis.checks:
        put(check.name, {"": f"{'✓' if check.ok else '✗'} {check.detail}"})


def _by_driver() -> str:
    """The first GPU's properties, as far as NVIDIA's driver reports them."""
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
        queries: dict[str, Callable[[], object]] = {
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
        return ", ".join(f"{name} {_or_dash(query, pynvml.NVMLError)}" for name, query in queries.items())
    except pynvml.NVMLError as error:
        return str(error)
    finally:
        pynvml.nvmlShutdown()


def _or_dash(query: Callable[[], object], refusal: type[Exception]) -> object:
    """The answer, or a dash: not every GPU supports every query."""
    try:
        return query()
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


def _output_of(*command: str) -> str:
    """A program's output, or that it is not installed."""
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not installed"
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return (done.stdout or done.stderr).strip() or f"{command[0]} printed nothing, exit code {done.returncode}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
