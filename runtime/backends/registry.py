"""The registry of backends, and the choice of one for a bundle.

A new backend is a class that implements `contract.Backend`, and a line in BACKENDS (docs/architecture.md).
"""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from pathlib import Path

from ...errors import BundleError, CaanWarning, CheckpointError, InputError, MissingError
from .contract import BF16, Backend
from .tensorrt.choose_engine import has_checked_engine

_log = logging.getLogger(__name__)

# Module and class by name, so that a backend is imported only when opened.
BACKENDS = {
    "native": ("caan.runtime.backends.native", "NativeBackend"),
    "onnxruntime": ("caan.runtime.backends.onnxruntime.backend", "OnnxBackend"),
    "tensorrt": ("caan.runtime.backends.tensorrt.backend", "TensorRTBackend"),
    "triton": ("caan.runtime.backends.triton.backend", "TritonBackend"),
    "torch": ("caan.runtime.backends.pytorch", "TorchBackend"),
}


def open_backend(
    name: str, path: Path, precision: str, device: str, threads: int | None, *, trust_engines: bool = False
) -> Backend:
    """Open a bundle (for `torch`, a checkpoint) with a backend. trust_engines: also run engines built elsewhere.

    `auto` takes the first available of:
    - `tensorrt`, if the bundle has an engine of this precision that loads here and passed a check on a GPU, so that
      speed never costs unmeasured accuracy. A checked engine that is no longer usable is skipped with a CaanWarning;
    - `onnxruntime` on a GPU;
    - `native`, if its package is installed and supports the bundle and the precision;
    - `onnxruntime` on the CPU.

    Raises InputError for an unknown name or an unsupported precision; MissingError for a missing package or device;
    BundleError or CheckpointError for an unusable file.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(f"unknown backend '{name}'; known: {', '.join(BACKENDS)}, auto")
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device '{device}'; known: cpu, cuda, auto")
    if precision == BF16 and name not in ("native", "triton"):
        if name != "auto":
            raise InputError(f"the backend '{name}' has no precision 'bf16'; use 'native' on a CPU, 'triton' on a GPU")
        return _open("native", path, precision, device, threads)
    if name == "auto":
        return _open_best(path, precision, device, threads, trust_engines)
    if name == "tensorrt":
        return _open(name, path, precision, device, threads, trust_engines=trust_engines)
    return _open(name, path, precision, device, threads)


def _open(name: str, path: Path, precision: str, device: str, threads: int | None, **more: bool) -> Backend:
    if name == "torch" and not path.exists():  # checked before importing PyTorch, which takes seconds
        raise CheckpointError(f"no checkpoint at {path}; name the model.pt that your training wrote")
    module, class_name = BACKENDS[name]
    backend: Backend = getattr(import_module(module), class_name).open(path, precision, device, threads, **more)
    return backend


def _open_best(path: Path, precision: str, device: str, threads: int | None, trust_engines: bool) -> Backend:
    from .native import open_native_if_installed
    from .onnxruntime.sessions import choose_device

    engine = None if device == "cpu" else _checked_engine(path, precision, device, trust_engines)
    if engine is not None:
        _log.info("auto chose tensorrt: an engine of %s was checked on a GPU and loads here", precision)
        return engine
    chosen = choose_device(device)
    native = open_native_if_installed(path, precision, threads) if chosen == "cpu" else None
    if native is not None:
        _log.info("auto chose native: no GPU is used, and caan-native can score %s", precision)
        return native
    why = (
        "a GPU is used"
        if chosen != "cpu"
        else f"caan-native is not installed or can't score {precision} of this bundle"
    )
    _log.info("auto chose onnxruntime: no checked engine loads here, and %s", why)
    return _open("onnxruntime", path, precision, device, threads)


def _checked_engine(path: Path, precision: str, device: str, trust_engines: bool) -> Backend | None:
    if not has_checked_engine(path, precision):
        return None
    try:
        from .tensorrt.backend import TensorRTBackend

        return TensorRTBackend.open(path, precision, device, None, checked=True, trust_engines=trust_engines)
    except MissingError as error:
        _log.warning("the bundle's TensorRT engines are skipped: %s", error)
        return None
    except BundleError as error:
        _log.warning("the bundle's TensorRT engines are skipped: %s", error)
        warnings.warn(f"{error}; until then another backend is used", CaanWarning, stacklevel=5)
        return None
