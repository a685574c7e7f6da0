"""Conversion of states between float16 and float32."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._onnxruntime import cpu_session
from ..errors import MissingError

# Two ONNX models with a single Cast node over (rows, columns), float16 to float32 and back, opset 18. NumPy takes eight
# times as long. They are the same for every model, so bundles don't hold them.
_CASTS = {
    "float32": "CAgSADpNChcKAXgSAXkiBENhc3QqCQoCdG8YAaABAhIEY2FzdFoVCgF4EhAKDggKEgoKAxIBcgoDEgFjYhUKAXkSEAoOCAESCgoD"
    "EgFyCgMSAWNCBAoAEBI=",
    "float16": "CAgSADpNChcKAXgSAXkiBENhc3QqCQoCdG8YCqABAhIEY2FzdFoVCgF4EhAKDggBEgoKAxIBcgoDEgFjYhUKAXkSEAoOCAoSCgoD"
    "EgFyCgMSAWNCBAoAEBI=",
}


def convert(states: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[np.floating]:
    """States (…, S) as float16 or float32; unchanged if they already are. Values beyond float16 become infinity."""
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
    """The session that converts to a dtype; None without ONNX Runtime."""
    try:
        # One thread: callers run concurrently, and memory bandwidth is the limit.
        return cpu_session(base64.b64decode(_CASTS[to]), 1, purpose="conversions")
    except MissingError:
        return None
