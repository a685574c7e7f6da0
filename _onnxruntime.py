"""The only place that imports ONNX Runtime and opens CPU sessions, for runtime, export and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._machine import chosen_threads
from .errors import needs

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
# Session config entry. Without it, on processors without VNNI, ONNX Runtime accumulates INT8 products in 16 bits and
# saturates, unlike any GPU.
_EXACT_INT8 = ("session.x64quantprecision", "1")


def onnxruntime(purpose: str = "the backend 'onnxruntime'") -> Any:
    """The module onnxruntime. Raises MissingError, naming the purpose, if it is not installed."""
    with needs("cpu", purpose):
        import onnxruntime
    return onnxruntime


def session_options(threads: int | None = None, purpose: str = "the backend 'onnxruntime'") -> ort.SessionOptions:
    """Options of every session; threads as `chosen_threads`."""
    options: ort.SessionOptions = onnxruntime(purpose).SessionOptions()
    options.intra_op_num_threads = chosen_threads(threads)
    options.log_severity_level = 3  # errors reach the caller as exceptions
    options.add_session_config_entry(*_EXACT_INT8)
    return options


def cpu_session(graph: Path | bytes, threads: int | None = None, *, purpose: str) -> ort.InferenceSession:
    """A session on the CPU. Raises MissingError without ONNX Runtime, and its own exceptions for a graph it refuses."""
    options = session_options(threads, purpose)
    return onnxruntime(purpose).InferenceSession(graph, options, providers=[CPU])
