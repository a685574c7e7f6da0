"""Calls that come again: which ones they are, and how they run as CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from .cuda import Gpu
from .plans import Plan

V = TypeVar("V")


class CudaGraphs(Generic[V]):
    """Remembers keys; a key that comes again, before `capacity` others came, is given a value of its own."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[Hashable, V | None] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], V]) -> V | None:
        """None for a key that is new, the key's value if it is not."""
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
    """A call that comes again with the same shapes at the same addresses, in a context that serves nothing else.

    NVIDIA's advice is one context per captured graph: a new shape changes what a context keeps, and a graph goes on
    using that. The first run is an ordinary one, TensorRT prepares itself in it; the second is captured.
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
        allows = getattr(self._context, "is_stream_capturable", None)  # not every TensorRT can tell
        if allows is not None and not allows(handle):
            return None
        return self._gpu.capture(self._stream, lambda: bool(self._context.execute_async_v3(handle)))
