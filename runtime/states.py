"""From what a gallery holds to what a scorer takes: half precision widened, left-out columns computed again."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .backend import Backend
from .galleries.gallery import Gallery

# ONNX models of one node, Cast, (rows, columns) from float16 to float32 and back, opset 18. NumPy takes eight times as
# long. They are no part of a bundle, since they are the same for all.
_CASTS = {
    "float32": "CAgSADpNChcKAXgSAXkiBENhc3QqCQoCdG8YAaABAhIEY2FzdFoVCgF4EhAKDggKEgoKAxIBcgoDEgFjYhUKAXkSEAoOCAESCgoD"
    "EgFyCgMSAWNCBAoAEBI=",
    "float16": "CAgSADpNChcKAXgSAXkiBENhc3QqCQoCdG8YCqABAhIEY2FzdFoVCgF4EhAKDggBEgoKAxIBcgoDEgFjYhUKAXkSEAoOCAoSCgoD"
    "EgFyCgMSAWNCBAoAEBI=",
}


def gather_states(
    backend: Backend, gallery: Gallery, items: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """States of some items in `backend.state_dtype`, padded to the longest, (n, L, S), and their lengths (n,).

    A view where the gallery holds just that: the backend may know it again.
    """
    states, lengths = gallery.gather(items)
    if gallery.compact:
        states = backend.expand_regions(convert(states, np.dtype(np.float32)))
    return convert(states, backend.state_dtype), lengths


def convert(states: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[np.floating]:
    """States (…, S), float16 or float32, in the other of these types or as they are. Beyond float16 is infinity."""
    if states.dtype == dtype:
        return states
    session = _caster(dtype.name)
    if session is None:
        with np.errstate(over="ignore"):
            return states.astype(dtype)
    rows = np.ascontiguousarray(states).reshape(-1, states.shape[-1])
    result: NDArray[np.floating] = session.run(None, {"x": rows})[0].reshape(states.shape)
    return result


@cache
def _caster(to: str) -> Any:
    """The session that converts to this dtype, None without ONNX Runtime."""
    try:
        import onnxruntime as ort
    except ImportError:
        return None
    options = ort.SessionOptions()
    # One thread: callers work side by side, and memory is what limits.
    options.intra_op_num_threads = 1
    return ort.InferenceSession(base64.b64decode(_CASTS[to]), options, providers=["CPUExecutionProvider"])
