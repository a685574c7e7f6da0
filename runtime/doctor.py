"""Reports what is installed, what this machine has, which backends work, and what to install for the others."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from .._cache import cache_folder
from .._machine import describe_machine, has_nvidia_driver, nvidia_gpus
from ..engines.targets import TARGETS, TargetName, installed_module, rtx_capabilities
from ..errors import MissingError, install
from .backends.native import BUILD, is_absence
from .backends.tensorrt.cuda import Gpu
from .scoring.tuning import CachedTuning, cached_tunings

_NO_GPU, _GET_GPU = "no NVIDIA GPU or driver here", "install NVIDIA's driver on a machine with a GPU"
_PACKAGES = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "tensorrt": "gpu",
    "tensorrt-rtx-cu13": "rtx",
    "cuda-core": "rtx",
    "cuda-bindings": "rtx",
    "caan-native": "",
    "torch": "export",
    "triton": "triton",
    "onnx": "export",
    "onnxscript": "export",
    "onnx-graphsurgeon": "export",
    "pillow": "plot",
    "matplotlib": "plot",
    "jinja2": "plot",
    "prometheus-client": "metrics",
    "h5py": "data",
    "lmdb": "data",
}


@dataclass(frozen=True)
class Check:
    """One line of the diagnosis; `advice` says how to get what is missing."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything `caan doctor` reports."""

    machine: str
    gpus: list[str]
    packages: dict[str, str | None]  # name → installed version
    checks: list[Check]
    cache: Path  # folder of cached tunings
    tunings: list[CachedTuning]

    def as_dict(self) -> dict[str, Any]:
        checks = [vars(check) for check in self.checks]
        return {
            "caan": __version__,
            "machine": self.machine,
            "gpus": self.gpus,
            "packages": self.packages,
            "checks": checks,
            "tuning": {"folder": str(self.cache), "kept": [vars(tuning) for tuning in self.tunings]},
        }


def diagnose() -> Diagnosis:
    """Inspect installed packages and GPUs, and try what each backend needs. Does not import PyTorch."""
    packages = {name: _version(name) for name in _PACKAGES}
    gpus = nvidia_gpus()
    tunings = cached_tunings()
    return Diagnosis(describe_machine(), gpus, packages, _checks(packages, gpus), cache_folder("tuning"), tunings)


def _checks(packages: dict[str, str | None], gpus: list[str]) -> list[Check]:
    checks = []
    both = packages["onnxruntime"] and packages["onnxruntime-gpu"]
    if both:
        advice = f"pip uninstall -y onnxruntime onnxruntime-gpu, then {install('cpu')}, or gpu instead of cpu"
        checks.append(Check("onnxruntime", False, "onnxruntime and onnxruntime-gpu overwrite each other", advice))
    providers = _providers()
    cpu = "CPUExecutionProvider" in providers
    checks.append(
        Check(
            "backend onnxruntime, cpu",
            cpu,
            "works" if cpu else "onnxruntime is not installed",
            "" if cpu else install("cpu"),
        )
    )
    checks.append(_native_check(cpu))
    checks.append(_cuda_check(providers, gpus))
    checks += [_tensorrt_check(target) for target in TARGETS]
    checks.append(_triton_check(packages, gpus))
    torch = packages["torch"]
    checks.append(
        Check(
            "backend torch",
            bool(torch),
            f"torch {torch}" if torch else "not installed",
            "" if torch else install("export"),
        )
    )
    absent = [name for name in ("torch", "onnx", "onnxscript") if not packages[name]]
    detail = f"missing: {', '.join(absent)}" if absent else "works"
    checks.append(Check("caan export", not absent, detail, install("export") if absent else ""))
    return checks


def _native_check(has_encoders: bool) -> Check:
    """caan-native is not an extra of caan: it is compiled on the machine that runs it."""
    name = "backend native, cpu"
    gain = "scores several times as fast as onnxruntime on a CPU"
    try:
        import caan_native
    except ImportError as error:
        if is_absence(error):
            return Check(name, False, f"not installed; it {gain}", BUILD)
        return Check(name, False, f"the package 'caan_native' does not load: {error}", BUILD)
    if not has_encoders:
        return Check(name, False, "its encoders are onnxruntime's, which is not installed", install("cpu"))
    bf16 = (
        "fp32, fp16 and bf16"
        if caan_native.has_native_bfloat16()
        else "fp32 and fp16; this CPU has no bf16 instructions"
    )
    return Check(name, True, f"works, in {bf16}; auto takes it for bundles that hold the scorer's weights")


def _cuda_check(providers: list[str], gpus: list[str]) -> Check:
    name = "backend onnxruntime, cuda"
    if not gpus:
        return Check(name, False, _NO_GPU, _GET_GPU)
    if "CUDAExecutionProvider" not in providers:
        return Check(
            name,
            False,
            "this onnxruntime has no CUDA provider",
            f"pip uninstall -y onnxruntime, then {install('gpu')}",
        )
    return Check(name, True, "available; a session says whether its libraries load")


def _tensorrt_check(target: TargetName) -> Check:
    """Whether this target's engines can run here. TensorRT for RTX can also build them without a GPU."""
    rtx = target == "tensorrt-rtx"
    name, module_name = f"backend tensorrt{', rtx' if rtx else ''}", TARGETS[target].module
    module = installed_module(target)
    if module is None and not rtx and not has_nvidia_driver():
        return Check(name, False, f"{_NO_GPU}; the module {module_name} is not installed", _GET_GPU)
    if module is None:
        detail = f"the module {module_name} is not installed, or does not load"
        return Check(name, False, detail, install(TARGETS[target].extra))
    version = str(module.__version__)
    if not has_nvidia_driver():
        return Check(name, False, f"{version}{', builds engines' if rtx else ''}; {_NO_GPU}", _GET_GPU)
    try:
        gpu = Gpu.open()
    except MissingError as error:
        return Check(name, False, f"{version}; {error}", install(TARGETS[target].extra))
    if rtx and gpu.capability not in rtx_capabilities(module):
        supported = ", ".join(rtx_capabilities(module))
        detail = f"{version} has no code for this GPU's compute capability {gpu.capability}, only for {supported}"
        return Check(name, False, detail, f"{install('gpu')} for TensorRT")
    return Check(name, True, f"{version}, {gpu.name} with compute capability {gpu.capability}")


def _triton_check(packages: dict[str, str | None], gpus: list[str]) -> Check:
    name = "backend triton"
    absent = [package for package in ("torch", "triton") if not packages[package]]
    if absent:
        return Check(name, False, f"missing: {', '.join(absent)}", install("triton"))
    version = f"triton {packages['triton']}, torch {packages['torch']}"
    if not gpus:
        return Check(name, False, f"{version}; {_NO_GPU}", _GET_GPU)
    if "+cpu" in str(packages["torch"]):
        advice = f"pip uninstall -y torch, then {install('triton')}"
        return Check(name, False, f"{version}; this PyTorch was built without CUDA", advice)
    return Check(name, True, f"{version}; opening a bundle says whether PyTorch sees the GPU")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _providers() -> list[str]:
    try:
        import onnxruntime
    except ImportError:
        return []
    providers: list[str] = onnxruntime.get_available_providers()
    return providers
