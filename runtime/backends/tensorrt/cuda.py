"""One NVIDIA GPU through NVIDIA's Python bindings, which only this file uses.

cuda-core provides device, streams, events and graphs; cuda-bindings provides copies, and memory that is freed
immediately.

Experimental: tested with stand-ins, has run on no GPU yet.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....errors import CaanError, MissingError, needs


class Gpu:
    """The first GPU visible to this process; CUDA_VISIBLE_DEVICES selects it."""

    def __init__(self, core: Any, driver: Any) -> None:
        self._core, self._driver = core, driver
        device = core.Device(0)
        device.set_current()
        self.name = str(device.name)
        self.capability = "{}.{}".format(*device.compute_capability)

    @classmethod
    def open(cls) -> Gpu:
        """Raises MissingError if NVIDIA's bindings are not installed or no GPU responds."""
        with needs("gpu", "the backend 'tensorrt'"):
            core, driver = import_module("cuda.core"), import_module("cuda.bindings.driver")
        try:
            return cls(core, driver)
        except Exception as error:  # types private to the bindings
            raise MissingError(f"no NVIDIA GPU answers: {error}; see caan doctor, or use device 'cpu'") from error

    def enter(self) -> None:
        """Make the GPU current in this thread; required in every thread before anything else."""
        self._core.Device(0).set_current()

    def free_bytes(self) -> int:
        """Free device memory in bytes."""
        free, _ = self.call("cuMemGetInfo")
        return int(free)

    def stream(self) -> Any:
        """A new stream: `.handle`, `.record(event)`, `.wait(event)`, `.sync()`."""
        return self._core.Device(0).create_stream()

    def event(self) -> Any:
        """A new event, to record in a stream: `.sync()`."""
        return self._core.Device(0).create_event()

    def allocate(self, size: int) -> DeviceMemory:
        """Device memory, aligned to 256 bytes. Raises CaanError if there is not enough."""
        return DeviceMemory(self, size)

    def pin(self, size: int) -> PinnedMemory:
        """Page-locked host memory for asynchronous copies. Raises CaanError if there is not enough."""
        return PinnedMemory(self, size)

    def upload(self, device: int, host: int, size: int, stream: Any) -> None:
        """Enqueue a copy of pinned memory to the device."""
        self.call("cuMemcpyHtoDAsync", device, host, size, stream.handle)

    def download(self, host: int, device: int, size: int, stream: Any) -> None:
        """Enqueue a copy of device memory to pinned memory."""
        self.call("cuMemcpyDtoHAsync", host, device, size, stream.handle)

    def capture(self, stream: Any, enqueue: Callable[[], bool]) -> Any:
        """Capture what `enqueue` puts into the stream as a graph, `.launch(stream)`, without running it.

        None if it returned False or did something that can't be captured; then nothing has run either.
        """
        builder = stream.create_graph_builder()
        try:
            # Allows other threads to allocate meanwhile.
            builder.begin_building("thread_local")
            done = enqueue()
            builder.end_building()
            return builder.complete() if done else None
        except Exception:  # a type private to the bindings
            return None
        finally:
            with suppress(Exception):  # ends a failed capture
                builder.close()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a CUDA driver function; returns its result or tuple of results. Raises CaanError if it fails."""
        error, *results = getattr(self._driver, function)(*arguments)
        if int(error) != 0:
            _, text = self._driver.cuGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(error)
            what = " (close other programs on this GPU, or set a smaller tile_bytes)" if "memory" in reason else ""
            raise CaanError(f"CUDA's {function} failed on {self.name}: {reason}{what}")
        return results[0] if len(results) == 1 else tuple(results)


class DeviceMemory:
    """Bytes on the device, freed with this object."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self.size = size
        self.address = int(gpu.call("cuMemAlloc", max(size, 1)))
        weakref.finalize(self, _free, gpu, "cuMemFree", self.address).atexit = False


class PinnedMemory:
    """Bytes of page-locked host memory, freed with this object: `bytes` (size,) uint8 is a view of them."""

    def __init__(self, gpu: Gpu, size: int) -> None:
        self.size = size
        self.address = int(gpu.call("cuMemAllocHost", max(size, 1)))
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))
        weakref.finalize(self, _free, gpu, "cuMemFreeHost", self.address).atexit = False


def _free(gpu: Gpu, function: str, address: int) -> None:
    # Any thread may collect garbage, so enter first; an exiting process may have no device any more.
    with suppress(Exception):
        gpu.enter()
        gpu.call(function, address)
