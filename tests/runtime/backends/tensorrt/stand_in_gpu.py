"""A stand-in for a GPU, so that everything but NVIDIA's own code runs on any machine.

Its streams are lazy: what is put into them runs at once, when somebody waits for it, or in between, in any order
that events allow; `chance` chooses. Code that forgets to wait reads or overwrites memory too early and gets wrong
scores. Device memory is host memory of which every access is checked; freed memory is no longer there.
"""

import random
import threading
import weakref

import numpy as np

CAPABILITY = "8.6"


class FakeMemory:
    def __init__(self, gpu, size, kind):
        self.size, self.gpu = size, gpu
        self._array = np.full(size + 256, 0xA5, np.uint8)  # garbage, like fresh device memory
        self.address = -(-self._array.ctypes.data // 256) * 256
        start = self.address - self._array.ctypes.data
        self.bytes = self._array[start : start + size]
        kind[self.address] = self.bytes
        weakref.finalize(self, kind.pop, self.address)


class FakeEvent:
    def __init__(self, gpu):
        self.gpu, self.recorded, self.reached = gpu, 0, 0

    def sync(self):
        self.gpu.run_until(lambda: self.reached >= self.recorded)


class FakeStream:
    def __init__(self, gpu):
        self.gpu, self.handle, self.queue, self.captured = gpu, len(gpu.streams) + 1, [], None
        gpu.streams.append(self)

    def put(self, run, ready=lambda: True):
        if self.captured is not None:
            self.captured.append(run)
            return
        with self.gpu.lock:
            self.queue.append((ready, run))
            while self.gpu.chance.random() < self.gpu.eagerness and self.gpu.step():
                pass

    def record(self, event):
        assert self.captured is None
        event.recorded += 1
        number = event.recorded
        self.put(lambda: setattr(event, "reached", max(event.reached, number)))

    def wait(self, event):
        assert self.captured is None
        number = event.recorded
        self.put(lambda: None, lambda: event.reached >= number)

    def sync(self):
        self.gpu.run_until(lambda: not self.queue)


class FakeGraph:
    def __init__(self, gpu, runs):
        self.gpu, self.runs = gpu, runs

    def launch(self, stream):
        self.gpu.launched += 1
        for run in self.runs:
            stream.put(run)


class FakeGpu:
    """As caan.runtime.backends.tensorrt.cuda.Gpu."""

    name, capability = "Fake GPU", CAPABILITY

    def __init__(self):
        self.chance, self.eagerness = random.Random(0), 0.0
        self.streams, self.device, self.host = [], {}, {}
        self.room = 1 << 40
        self.uploaded = self.launched = 0
        self.scratch_streams = {}
        self.entered = threading.local()
        self.lock = threading.RLock()

    def enter(self):
        self.entered.current = True

    def _check_entered(self):
        assert getattr(self.entered, "current", False), "the GPU is not current in this thread"

    def free_bytes(self):
        self._check_entered()
        return self.room

    def stream(self):
        self._check_entered()
        return FakeStream(self)

    def event(self):
        self._check_entered()
        return FakeEvent(self)

    def allocate(self, size):
        self._check_entered()
        return FakeMemory(self, size, self.device)

    def pin(self, size):
        self._check_entered()
        return FakeMemory(self, size, self.host)

    def upload(self, device, host, size, stream):
        self._check_entered()

        def run():
            self.uploaded += size
            self.at(self.device, device, size)[:] = self.at(self.host, host, size)

        stream.put(run)

    def download(self, host, device, size, stream):
        def run():
            self.at(self.host, host, size)[:] = self.at(self.device, device, size)

        stream.put(run)

    def capture(self, stream, enqueue):
        stream.captured = []
        try:
            return FakeGraph(self, stream.captured) if enqueue() else None
        finally:
            stream.captured = None

    def at(self, kind, address, size):
        """Allocated memory, or a failed test."""
        for start, content in list(kind.items()):
            if start <= address and address + size <= start + len(content):
                return content[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address:#x} are not allocated")

    def step(self):
        """Run one operation that is ready; False if there is none."""
        ready = [stream for stream in self.streams if stream.queue and stream.queue[0][0]()]
        if ready:
            self.chance.choice(ready).queue.pop(0)[1]()
        return bool(ready)

    def run_until(self, done):
        with self.lock:
            while not done():
                assert self.step(), "everything waits for an event that never comes"
