"""Detects repeated calls and runs them as CUDA graphs.

Experimental: tested with stand-ins, has run on no GPU yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from .cuda import Gpu
from .plans import Plan

V = TypeVar("V")


class CudaGraphs(Generic[V]):
    """An LRU cache of values for repeated keys: a key gets a value only when it recurs among `capacity` keys."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, V | None] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V | None:
        """None for a new key; for a repeated one its value, from `make` the first time."""
        if key not in self._values:
            while len(self._values) >= self._capacity:
                self._values.popitem(last=False)
            self._values[key] = None
            return None
        self._values.move_to_end(key)
        value = self._values[key]
        if value is None:
            value = self._values[key] = make()
        return value


class CapturedRun:
    """A repeated call with fixed shapes and addresses, in its own execution context.

    NVIDIA recommends one context per captured graph: a new shape would change state that the graph still uses. The
    first run is not captured, since TensorRT initializes in it; the second is.
    """

    def __init__(self, gpu: Gpu, plan: Plan, context: Any, stream: Any) -> None:
        self._gpu, self._plan, self._context, self._stream = gpu, plan, context, stream
        self._warm = False
        self._graph: Any = None
        self._capturable = not plan.captures_itself

    def run(self) -> None:
        if self._graph is None and self._warm and self._capturable:
            self._graph = self._capture()
            self._capturable = self._graph is not None
        if self._graph is not None:
            self._graph.launch(self._stream)
        else:
            self._plan.execute(self._context, self._stream)
        self._warm = True

    def _capture(self) -> Any:
        handle = int(self._stream.handle)
        allows = getattr(self._context, "is_stream_capturable", None)  # not in every TensorRT version
        if allows is not None and not allows(handle):
            return None
        return self._gpu.capture(self._stream, lambda: bool(self._context.execute_async_v3(handle)))
