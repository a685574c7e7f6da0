"""Runs a plan: copies overlap with computation, and repeated calls become CUDA graphs.

An executor alternates between two slots. While the GPU computes one slot's call, the next call is copied into the other
slot's pinned memory and from there to the device, in a separate stream; events synchronize the two streams:

    copies    upload 0 │ upload 1 │          upload 2 │ …
    compute            │ run 0, download 0 │ run 1, download 1 │ run 2 …

A slot is reused only after its last result has arrived: then its memory and the contexts bound to it are idle.

Experimental: tested with stand-ins, has run on no GPU yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Any

from numpy.typing import NDArray

from ....engines.profiles import Shape, Sizes
from ....errors import CaanError, InputError
from ..device_cache import DeviceCache
from .choose_profile import choose_profile, sizes_of
from .cuda import DeviceMemory, Gpu, PinnedMemory
from .cuda_graphs import CapturedRun, CudaGraphs
from .plans import Plan

Call = Mapping[str, NDArray[Any]]  # input → array

_SLOTS = 2
# Captured calls, each with its own context. More than slots, so that none in flight is evicted.
_CUDA_GRAPHS = 8
_ALIGNMENT = 256  # bytes, of input addresses; required by TensorRT
_STEP = 1 << 20  # bytes, smallest growth of a buffer


@dataclass(frozen=True)
class Resident:
    """An array on the device, and the event that marks its upload."""

    memory: DeviceMemory
    ready: Any


class Executor:
    """Streams, buffers and execution contexts for one call at a time."""

    def __init__(self, gpu: Gpu, plan: Plan, residents: DeviceCache[Resident]) -> None:
        self._gpu, self._plan, self._residents = gpu, plan, residents
        gpu.enter()
        self._copies, self._compute = gpu.stream(), gpu.stream()
        # Shared by all contexts, since they run one at a time.
        self._scratch = gpu.allocate(plan.scratch_bytes)
        self._slots = [_Slot(gpu) for _ in range(_SLOTS)]
        self._cuda_graphs: CudaGraphs[CapturedRun] = CudaGraphs(_CUDA_GRAPHS)
        self.healthy = True

    def run(self, calls: Iterable[Call]) -> Iterator[NDArray[Any]]:
        """The plan's output for each call, in order; up to two calls are in flight at a time.

        Raises InputError for a call that no profile takes, CaanError if TensorRT or CUDA fails.
        """
        running: deque[_Running] = deque()
        try:
            for number, call in enumerate(calls):
                if len(running) == _SLOTS:
                    yield self._finish(running.popleft())
                self._gpu.enter()
                running.append(self._start(self._slots[number % _SLOTS], call))
            while running:
                yield self._finish(running.popleft())
        finally:
            self._settle()

    def _settle(self) -> None:
        """Wait for everything in flight, including abandoned calls."""
        self.healthy = False
        self._gpu.enter()
        self._copies.sync()
        self._compute.sync()
        for slot in self._slots:
            slot.used.clear()
        self.healthy = True

    def _start(self, slot: _Slot, call: Call) -> _Running:
        plan = self._plan
        requested = sizes_of(plan.graph, {name: array.shape for name, array in call.items()})
        profile, sizes = choose_profile(plan.graph, plan.profiles, requested)
        shapes, expected = plan.input_shapes(sizes), plan.output_shape(sizes)
        addresses = self._upload(slot, call, shapes)
        size = prod(expected) * plan.dtypes[plan.output].itemsize
        slot.reserve_output(size)
        addresses[plan.output] = slot.output.address
        self._copies.record(slot.uploaded)
        self._compute.wait(slot.uploaded)

        def new_context(repeating: bool) -> Any:
            return plan.new_context(profile, self._scratch, self._compute, repeating=repeating)

        def capture() -> CapturedRun:
            context = new_context(True)
            plan.bind(context, shapes, addresses, expected)
            return CapturedRun(self._gpu, plan, context, self._compute)

        key = (profile, tuple(shapes.items()), tuple(addresses.items()))
        captured = self._cuda_graphs.get(key, capture)
        if captured is not None:
            captured.run()
        else:
            if profile not in slot.contexts:
                slot.contexts[profile] = new_context(False)
            context = slot.contexts[profile]
            plan.bind(context, shapes, addresses, expected)
            plan.execute(context, self._compute)
        self._gpu.download(slot.result.address, slot.output.address, size, self._compute)
        self._compute.record(slot.done)
        return _Running(slot, expected, requested)

    def _finish(self, running: _Running) -> NDArray[Any]:
        self._gpu.enter()
        slot, plan = running.slot, self._plan
        slot.done.sync()
        slot.used.clear()
        dtype = plan.dtypes[plan.output]
        size = prod(running.shape) * dtype.itemsize
        output: NDArray[Any] = slot.result.bytes[:size].view(dtype).reshape(running.shape)
        return output[plan.output_part(running.sizes)].copy()

    def _upload(self, slot: _Slot, call: Call, shapes: Mapping[str, Shape]) -> dict[str, int]:
        """Copy every input to the device unless it is there already; {input: address}."""
        addresses: dict[str, int] = {}
        places: dict[str, int] = {}  # offsets in the slot's buffers of inputs to copy
        total = 0
        for name, array in call.items():
            exact = array.shape == shapes[name] and array.dtype == self._plan.dtypes[name]
            resident = self._residents.find(array) if exact else None
            if resident is not None:
                self._use(slot, resident)
                addresses[name] = resident.memory.address
                continue
            places[name] = total
            bytes_needed = prod(shapes[name]) * self._plan.dtypes[name].itemsize
            total += -(-bytes_needed // _ALIGNMENT) * _ALIGNMENT
        slot.reserve_inputs(total)
        for name, place in places.items():
            addresses[name] = self._copy(slot, name, call[name], shapes[name], place)
        return {name: addresses[name] for name in shapes}

    def _copy(self, slot: _Slot, name: str, array: NDArray[Any], shape: Shape, place: int) -> int:
        """Copy an array, padded to a shape, through the slot's pinned memory; returns its device address."""
        dtype = self._plan.dtypes[name]
        size = prod(shape) * dtype.itemsize
        host = slot.pinned.bytes[place : place + size].view(dtype).reshape(shape)
        exact = array.shape == shape and array.dtype == dtype
        _fill(host, array, 1 if name.endswith("_lengths") else 0)
        memory = self._room(array) if exact else None
        address = slot.inputs.address + place if memory is None else memory.address
        self._gpu.upload(address, slot.pinned.address + place, size, self._copies)
        if memory is not None:
            resident = Resident(memory, self._gpu.event())
            self._copies.record(resident.ready)
            self._residents.keep(array, resident)
            self._use(slot, resident)
        return address

    def _room(self, array: NDArray[Any]) -> DeviceMemory | None:
        """Memory for an array to cache on the device; None if it should not or can't be cached."""
        if not self._residents.should_keep(array):
            return None
        try:
            return self._gpu.allocate(array.nbytes)
        except CaanError:
            return None

    def _use(self, slot: _Slot, resident: Resident) -> None:
        # Held until the slot is done, since another thread may evict it meanwhile.
        slot.used.append(resident)
        self._compute.wait(resident.ready)


class ExecutorPool:
    """One executor per concurrent call, since threads must not share contexts and streams."""

    def __init__(self, make: Callable[[], Executor]) -> None:
        self._make: Callable[[], Executor] | None = make  # None: closed, with no reference to a plan
        self._free: list[Executor] = []
        self._lock = Lock()

    @contextmanager
    def executor(self) -> Iterator[Executor]:
        """An executor for exclusive use. Raises InputError if the pool is closed."""
        with self._lock:
            make = self._make
            executor = self._free.pop() if self._free else None
        if make is None:
            raise InputError("this backend is closed; open it again")
        executor = executor or make()
        try:
            yield executor
        finally:
            with self._lock:
                if executor.healthy and self._make is not None:
                    self._free.append(executor)

    def close(self) -> None:
        """Free idle executors now, busy ones when their calls are done."""
        with self._lock:
            self._make = None
            self._free.clear()


@dataclass
class _Running:
    """A call in flight."""

    slot: _Slot
    shape: Shape  # of the output
    sizes: Sizes  # as requested


@dataclass
class _Slot:
    """Buffers of one call, which grow on demand."""

    gpu: Gpu
    pinned: PinnedMemory = field(init=False)  # inputs on the host, copied to `inputs`
    inputs: DeviceMemory = field(init=False)
    output: DeviceMemory = field(init=False)  # copied to `result`
    result: PinnedMemory = field(init=False)
    contexts: dict[int, Any] = field(default_factory=dict)  # profile → context
    used: list[Resident] = field(default_factory=list)  # by the call in flight

    def __post_init__(self) -> None:
        self.pinned, self.inputs = self.gpu.pin(_STEP), self.gpu.allocate(_STEP)
        self.output, self.result = self.gpu.allocate(_STEP), self.gpu.pin(_STEP)
        self.uploaded, self.done = self.gpu.event(), self.gpu.event()

    def reserve_inputs(self, size: int) -> None:
        if size > self.inputs.size:
            self.pinned, self.inputs = self.gpu.pin(_grown(size)), self.gpu.allocate(_grown(size))

    def reserve_output(self, size: int) -> None:
        if size > self.output.size:
            self.output, self.result = self.gpu.allocate(_grown(size)), self.gpu.pin(_grown(size))


def _grown(size: int) -> int:
    """The size rounded up by at most an eighth, so that slowly growing calls do not reallocate each time."""
    step = max(_STEP, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def _fill(host: NDArray[Any], array: NDArray[Any], padding: int) -> None:
    if array.shape != host.shape:
        host[...] = padding
    host[tuple(slice(size) for size in array.shape)] = array
