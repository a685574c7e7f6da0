"""What this machine is: cores, processor, memory. Standard library only."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

# An option of ONNX Runtime's sessions: without it, processors that lack VNNI add INT8 products up in 16 bits, which
# saturate. INT8 graphs then score as no GPU does.
EXACT_INT8 = ("session.x64quantprecision", "1")


def cpu_count() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Threads of one scorer call: OMP_NUM_THREADS where it is set, as numeric programs agree, else all cores."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdigit() and int(named) > 0 else cpu_count()


def describe_machine() -> str:
    """One line: processor, usable cores, memory, operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    size = f", {memory / 2**30:.0f} GiB" if memory else ""
    return f"{_cpu_name()}, {cpu_count()} cores{size}, {platform.system()}, Python {platform.python_version()}"


def nvidia_gpus() -> list[str]:
    """One line per NVIDIA GPU, name and driver version, as nvidia-smi tells; empty without GPU or driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in output.splitlines() if line.strip()]


def has_nvidia_driver() -> bool:
    """Whether NVIDIA's driver library can be loaded; far quicker than asking nvidia-smi."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """The most bytes this process has had resident.

    On Linux read from /proc: getrusage would count the parent's memory from before the program was started.
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
