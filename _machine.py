"""Properties of this machine: cores, processor, memory, GPUs."""

from __future__ import annotations

import ctypes
import math
import operator
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._cgroups import cpu_quota
from .errors import InputError

# More threads than any machine has processors are a mistake that crashes or stalls the machine.
MOST_THREADS = 1024
_THREADS_VARIABLE = "OMP_NUM_THREADS"


def cpu_count() -> int:
    """Processors available to this process, by its affinity and its control groups' quota, rounded up."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def chosen_threads(threads: int | None = None) -> int:
    """Threads per scorer call: `threads`, else OMP_NUM_THREADS, the convention of numeric programs, else all cores.

    Raises InputError for a number outside 1 to 1024 from either source.
    """
    if threads is not None:
        number = _whole(threads)
        if not 1 <= number <= MOST_THREADS:
            raise InputError(f"threads must be from 1 to {MOST_THREADS}, not {threads}")
        return number
    value = os.environ.get(_THREADS_VARIABLE, "").strip()
    if not value:
        return cpu_count()
    # OpenMP's list has one number per nesting level; only the first is used here.
    levels = [level.strip() for level in value.split(",")]
    if not all(re.fullmatch("[0-9]{1,9}", level) and 1 <= int(level) <= MOST_THREADS for level in levels):
        raise InputError(
            f"{_THREADS_VARIABLE} is '{value[:50]}', not a number of threads from 1 to {MOST_THREADS}; set it to one,"
            " or unset it"
        )
    return int(levels[0])


def _whole(value: Any) -> int:
    """The integer, Python's or NumPy's; 0 for anything else."""
    try:
        return 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return 0


def describe_machine() -> str:
    """One line: processor, usable cores, memory, operating system."""
    size = ""
    # make gpu-record also runs where no packages can be installed.
    with suppress(ImportError):
        import psutil

        size = f", {psutil.virtual_memory().total / 2**30:.0f} GiB"
    return f"{_cpu_name()}, {cpu_count()} cores{size}, {platform.system()}, Python {platform.python_version()}"


def nvidia_gpus() -> list[str]:
    """One line per NVIDIA GPU: name, driver version, memory. Empty without a GPU or its driver.

    Without nvidia-ml-py a single line says that it is missing.
    """
    if not has_nvidia_driver():
        return []
    try:
        import pynvml
    except ImportError:
        return ["an NVIDIA GPU; for its name: pip install nvidia-ml-py"]
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver, gpus = pynvml.nvmlSystemGetDriverVersion(), []
        for number in range(pynvml.nvmlDeviceGetCount()):
            gpu = pynvml.nvmlDeviceGetHandleByIndex(number)
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu).total
            gpus.append(f"{pynvml.nvmlDeviceGetName(gpu)}, {driver}, {memory // 2**20} MiB")
        return gpus
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def has_nvidia_driver() -> bool:
    """Whether NVIDIA's driver library can be loaded; quicker than asking the driver itself."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """The peak resident memory of this process, in bytes.

    On Linux read from /proc: getrusage would include the parent's memory before exec, and psutil reports only the
    current size.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
