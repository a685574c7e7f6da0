"""ONNX Runtime sessions on exactly the requested device.

Experimental on `cuda`: has run on no GPU yet.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from numpy.typing import NDArray

from ...._machine import has_nvidia_driver
from ...._onnxruntime import CPU, onnxruntime, session_options
from ....bundle import SCALES, Bundle
from ....errors import BundleError, CaanError, MissingError
from ..device_cache import DeviceCache

if TYPE_CHECKING:
    import onnxruntime as ort

_PROVIDERS = {"cpu": CPU, "cuda": "CUDAExecutionProvider"}
# TF32 rounds float32 factors to 10 bits, so scores would differ from those checked at export. Memory grows only as
# requested: tiles have similar sizes, and other programs need the GPU too.
_OPTIONS = {"cpu": {}, "cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}}
# The first version that computes INT8 graphs with float16 scales correctly; docs/precision.md.
_ROUNDS_HALF = (1, 30)


def open_session(
    path: Path,
    device: str,
    threads: int | None,
    *,
    content: bytes | None = None,
    yielding: bool = False,
    purpose: str = "the backend 'onnxruntime'",
) -> ort.InferenceSession:
    """An ONNX Runtime session on exactly this device; yielding: its threads stop spinning when a call is done.

    content: the graph's bytes, if already read and checked. ONNX Runtime silently drops a provider that fails to load,
    so the session's actual providers are compared with the requested one. Raises MissingError if the device is not
    usable, BundleError if the graph can't be loaded.
    """
    ort = onnxruntime(purpose)
    options = session_options(threads, purpose)  # a dropped provider is reported by the check below, once
    if yielding:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    provider = _PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise _no_cuda("this onnxruntime was built without it")
    try:
        if device == "cuda":
            _load_cuda()
        session = ort.InferenceSession(
            path if content is None else content, options, providers=[(provider, _OPTIONS[device])]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        if device != "cpu":
            raise _no_cuda(str(error).splitlines()[0]) from error
        raise BundleError(f"ONNX Runtime {ort.__version__} can't load {path}: {error}") from error
    if provider not in session.get_providers():
        raise _no_cuda(f"ONNX Runtime dropped {provider}, its libraries or the GPU's driver did not load")
    return survives_fork(session)


def survives_fork(session: ort.InferenceSession) -> ort.InferenceSession:
    """The same session, registered so that a forked process, which lacks its threads, never destroys it."""
    _SESSIONS.add(session)
    return session


def run_session(session: ort.InferenceSession, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """All outputs of a session on the CPU. Raises CaanError if ONNX Runtime fails."""
    with _failing():
        outputs: list[NDArray[Any]] = session.run(None, dict(inputs))
        return outputs


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise CaanError(f"ONNX Runtime {onnxruntime().__version__} failed: {error}") from error


def check_rounding(bundle: Bundle, precision: str) -> None:
    """Raise BundleError for INT8 graphs this ONNX Runtime computes incorrectly."""
    entry = bundle.manifest["precisions"].get(precision)
    if precision != "int8" or (isinstance(entry, dict) and entry.get(SCALES) == "float32"):
        return
    version = onnxruntime().__version__
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _ROUNDS_HALF:
        raise BundleError(
            f"ONNX Runtime {version} computes the int8 graphs of {bundle.folder} wrong, whose scales are float16;"
            f" build them again: caan-build-engine {bundle.folder} --int8 --calibration-data DIR"
        )


def run_bound(
    session: ort.InferenceSession,
    inputs: dict[str, NDArray[Any]],
    device: str,
    residents: DeviceCache[ort.OrtValue],
) -> NDArray[Any]:
    """Run a session on a device with its own memory; gallery tiles are copied there once and kept.

    Raises CaanError as `run_session`.
    """
    binding = session.io_binding()
    for name, array in inputs.items():
        value = residents.find(array)
        if value is None and residents.should_keep(array):
            # If the device is full, the array is sent each time.
            with suppress(Exception):  # ONNX Runtime's exceptions share no base class
                value = onnxruntime().OrtValue.ortvalue_from_numpy(array, device)
                residents.keep(array, value)
        if value is None:
            binding.bind_cpu_input(name, array)
        else:
            binding.bind_ortvalue_input(name, value)
    binding.bind_output(session.get_outputs()[0].name)
    binding.synchronize_inputs()
    with _failing():
        session.run_with_iobinding(binding)
        output: NDArray[Any] = binding.copy_outputs_to_cpu()[0]
    return output


def choose_device(device: str) -> str:
    """The device, "cpu" or "cuda"; "auto": the GPU if this onnxruntime supports it and there is a driver."""
    if device != "auto":
        return device
    # The GPU package lists its CUDA provider on any machine and prints errors without a driver.
    usable = _PROVIDERS["cuda"] in onnxruntime().get_available_providers() and has_nvidia_driver()
    return "cuda" if usable else "cpu"


@cache
def _load_cuda() -> None:
    """Load CUDA's libraries from where pip installed them. Older onnxruntime packages leave that to the system."""
    preload = getattr(onnxruntime(), "preload_dlls", None)
    if preload is not None:
        # It prints missing libraries, but standard output is for results.
        with redirect_stdout(sys.stderr):
            preload()


_SESSIONS: WeakSet[ort.InferenceSession] = WeakSet()


def _in_child() -> None:
    # Leak the sessions: their destructors join threads that do not exist here, which crashes the exiting child.
    for session in _SESSIONS:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _no_cuda(reason: str) -> MissingError:
    return MissingError(
        f"the device 'cuda' can't be used: {reason}; see caan doctor, install the extra gpu instead of cpu, or use"
        " device 'cpu'"
    )
