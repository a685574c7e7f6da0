"""Caches gallery tiles on the device.

A gallery is scored repeatedly and its tiles never change, so their device copies are kept between calls.

Experimental: has run on no GPU yet.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

V = TypeVar("V")
Key = tuple[int, int, tuple[int, ...], tuple[int, ...], str]

# A copy unused for this many look-ups may be evicted. Plain LRU would be worse than no cache: searches scan their
# gallery in a fixed order, so that each tile would be evicted just before its next use.
_IDLE_LOOKUPS = 4096


@dataclass
class _Entry(Generic[V]):
    root: weakref.ref[Any]
    value: V
    size: int  # bytes
    used: int  # number of the look-up that last used it


class DeviceCache(Generic[V]):
    """Device copies `V` of arrays, looked up by the array. Thread-safe.

    Only read-only views qualify: their base array outlives them, so views of it may recur, and it does not change. The
    key is that array's identity, guarded by a weak reference, since its address may be reused by another array.
    """

    def __init__(self, budget: Callable[[], int]) -> None:
        """budget: returns the bytes for all copies; called when the first one is kept."""
        self._get_budget = budget
        self._budget: int | None = None
        self._entries: OrderedDict[Key, _Entry[V]] = OrderedDict()  # least recently used first
        self._seen: OrderedDict[Key, weakref.ref[Any]] = OrderedDict()
        self._used_bytes = 0
        self._lookups = 0
        self._gone: deque[Key] = deque()  # of arrays that died
        self._lock = Lock()

    def find(self, array: NDArray[Any]) -> V | None:
        """The copy of this array; None if there is none."""
        key, root = _identify(array)
        if root is None:
            return None
        with self._lock:
            self._drop_gone()
            self._lookups += 1
            entry = self._entries.get(key)
            if entry is None or entry.root() is not root:
                return None
            entry.used = self._lookups
            self._entries.move_to_end(key)
            return entry.value

    def should_keep(self, array: NDArray[Any]) -> bool:
        """Whether to keep a copy: the array was seen before and there is room. The first call only marks it as seen."""
        key, root = _identify(array)
        if root is None:
            return False
        with self._lock:
            self._drop_gone()
            before = self._seen.get(key)
            self._seen[key] = weakref.ref(root)
            self._seen.move_to_end(key)
            while len(self._seen) > _IDLE_LOOKUPS:
                self._seen.popitem(last=False)
            return before is not None and before() is root and self._make_room(array.nbytes)

    def keep(self, array: NDArray[Any], value: V) -> None:
        """Keep a copy, unless another thread has already kept one."""
        key, root = _identify(array)
        if root is None:
            return
        with self._lock:
            self._drop_gone()
            if key not in self._entries and self._make_room(array.nbytes):
                reference = weakref.ref(root, partial(_forget, weakref.ref(self), key))
                self._entries[key] = _Entry(reference, value, array.nbytes, self._lookups)
                self._used_bytes += array.nbytes

    def clear(self) -> None:
        """Drop all copies; each is freed when its last user is done."""
        with self._lock:
            self._entries.clear()
            self._seen.clear()
            self._used_bytes = 0

    def _make_room(self, size: int) -> bool:
        if self._budget is None:
            self._budget = self._get_budget()
        while self._used_bytes + size > self._budget:
            oldest = next(iter(self._entries.items()), None)
            if oldest is None or self._lookups - oldest[1].used < _IDLE_LOOKUPS:
                return False
            self._remove(oldest[0])
        return True

    def _drop_gone(self) -> None:
        while self._gone:
            key = self._gone.popleft()
            entry = self._entries.get(key)
            if entry is not None and entry.root() is None:
                self._remove(key)

    def _remove(self, key: Key) -> None:
        self._used_bytes -= self._entries.pop(key).size


def _forget(tiles: weakref.ref[DeviceCache[Any]], key: Key, _: object) -> None:
    """Weak reference callback: runs when the array dies, at any time, in any thread, even within the methods above."""
    alive = tiles()
    if alive is not None:
        alive._gone.append(key)
        if alive._lock.acquire(blocking=False):  # else the lock's holder or the next call does it
            try:
                alive._drop_gone()
            finally:
                alive._lock.release()


def _identify(array: NDArray[Any]) -> tuple[Key, NDArray[Any] | None]:
    """A key for a view's memory, and its base array; None instead if the array does not qualify."""
    root = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    offset = array.ctypes.data - root.ctypes.data
    key = (id(root), offset, array.shape, array.strides, array.dtype.str)
    return key, None if root is array or array.flags.writeable else root
