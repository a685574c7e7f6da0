"""States between float16 and float32."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._onnxruntime import cpu_session
from ..errors import MissingError

# ONNX models of one node, Cast, (rows, columns) from float16 to float32 and back, opset 18. NumPy takes eight times as
# long. They are no part of a bundle, since they are the same for all.
_CASTS = {
    "float32": "CAgSADpNChcKAXgSAXkiBENhc3QqCQoCdG8YAaABAhIEY2FzdFoVCgF4EhAKDggKEgoKAxIBcgoDEgFjYhUKAXkSEAoOCAESCgoD"
    "EgFyCgMSAWNCBAoAEBI=",
    "float16": "CAgSADpNChcKAXgSAXkiBENhc3QqCQoCdG8YCqABAhIEY2FzdFoVCgF4EhAKDggBEgoKAxIBcgoDEgFjYhUKAXkSEAoOCAoSCgoD"
    "EgFyCgMSAWNCBAoAEBI=",
}


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
        # One thread: callers work side by side, and memory is what limits.
        return cpu_session(base64.b64decode(_CASTS[to]), 1, purpose="conversions")
    except MissingError:
        return None
