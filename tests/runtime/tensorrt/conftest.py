"""Stand-ins for a GPU and for TensorRT, so that everything but NVIDIA's own code runs on any machine.

The GPU's streams are lazy: what is put into them runs at once, when somebody waits for it, or in between, in any order
that events allow; `chance` chooses. Code that forgets to wait reads or overwrites memory too early and gets wrong
scores. Device memory is host memory of which every access is checked; freed memory is no longer there.

TensorRT's engines are ONNX Runtime sessions. Their contexts insist on what NVIDIA documents: no change while a run is
on its way, no capture of the first run of a shape, no two streams in one scratch memory.
"""

import enum
import json
import random
import threading
import types
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from caan.bundle import GRAPHS, INPUTS, OUTPUTS, graph_file, open_bundle, plan_file, write_manifest
from caan.export.fp16 import to_fp16
from caan.runtime.tensorrt import backend as tensorrt_backend
from caan.runtime.tensorrt import engine as engines
from caan.runtime.tensorrt.profiles import sizes_of

VERSION, CAPABILITY = "1.7.1.116", "8.6"


class FakeMemory:
    def __init__(self, gpu, size, kind):
        self.size, self.gpu = size, gpu
        self._array = np.full(size + 256, 0xA5, np.uint8)  # garbage, as fresh device memory is
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
    """As caan.runtime.tensorrt.cuda.Gpu."""

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
        """Memory that is there, or a failed test."""
        for start, content in list(kind.items()):
            if start <= address and address + size <= start + len(content):
                return content[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address:#x} are not allocated")

    def step(self):
        """Run one thing that can run now; False if there is none."""
        ready = [stream for stream in self.streams if stream.queue and stream.queue[0][0]()]
        if ready:
            self.chance.choice(ready).queue.pop(0)[1]()
        return bool(ready)

    def run_until(self, done):
        with self.lock:
            while not done():
                assert self.step(), "everything waits for an event that never comes"


class FakeContext:
    def __init__(self, engine, graphed):
        self.engine, self.graphed = engine, graphed
        self.profile, self.scratch = None, None
        self.shapes, self.addresses = {}, {}
        self.busy = 0
        self.ran_since_bound = False

    def set_device_memory(self, address, size):
        assert size >= self.engine.device_memory_size_v2
        self.scratch = address

    def set_optimization_profile_async(self, index, stream):
        self._change()
        self.profile = index
        return index < self.engine.num_optimization_profiles

    def set_input_shape(self, name, shape):
        self._change()
        low, _, high = self.engine.get_tensor_profile_shape(name, self.profile)
        self.shapes[name] = tuple(shape)
        return all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))

    def set_tensor_address(self, name, address):
        self._change()
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def infer_shapes(self):
        return [name for name in INPUTS[self.engine.graph] if name not in self.shapes]

    def get_tensor_shape(self, name):
        sizes = sizes_of(self.engine.graph, self.shapes)
        output, axes = OUTPUTS[self.engine.graph]
        assert name == output
        return (*(sizes[axis] for axis in axes), *self.engine.get_tensor_shape(name)[len(axes) :])

    def execute_async_v3(self, handle):
        gpu = self.engine.trt.gpu
        stream = gpu.streams[handle - 1]
        assert self.scratch in gpu.device
        assert gpu.scratch_streams.setdefault(self.scratch, stream) is stream
        if stream.captured is not None and (not self.ran_since_bound or self.busy or self.engine.trt.uncapturable):
            return False
        shapes, addresses, runs = dict(self.shapes), dict(self.addresses), int(stream.captured is None)

        def run():
            self.engine._run(gpu, shapes, addresses)
            self.busy -= runs

        self.busy += runs
        self.ran_since_bound = True
        self.engine.trt.runs.append((self.engine.graph, self.profile, shapes, self.graphed))
        stream.put(run)
        return True

    def _change(self):
        assert not self.busy, "a context was changed while a run was on its way"
        self.ran_since_bound = False


class FakeConfig:
    def __init__(self, trt):
        self.trt, self.cuda_graph_strategy, self.cache = trt, trt.CudaGraphStrategy.DISABLED, None

    def set_execution_context_allocation_strategy(self, strategy):
        assert strategy == "user managed"

    def create_runtime_cache(self):
        return FakeKernels()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class FakeKernels:
    def __init__(self):
        self.content = b"kernels:"

    def deserialize(self, blob):
        self.content = bytes(blob)
        return True

    def serialize(self):
        return memoryview(self.content + b"+")


class FakeEngine:
    def __init__(self, trt, plan):
        self.trt, self.graph, self.profiles = trt, plan["graph"], plan["profiles"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan["onnx"], options, providers=["CPUExecutionProvider"])
        self.ends = {end.name: end for end in [*self.session.get_inputs(), *self.session.get_outputs()]}
        self.num_io_tensors, self.num_optimization_profiles = len(self.ends), len(self.profiles)
        self.device_memory_size_v2 = 1000
        self.refitted = False

    def get_tensor_name(self, number):
        return list(self.ends)[number]

    def get_tensor_dtype(self, name):
        return self.ends[name].type

    def get_tensor_location(self, name):
        return "device"

    def get_tensor_shape(self, name):
        return tuple(-1 if isinstance(size, str) else size for size in self.ends[name].shape)

    def get_tensor_profile_shape(self, name, index):
        shapes = self.profiles[index]["shapes"][name]
        return [shapes["min"], shapes["opt"], shapes["max"]]

    def create_runtime_config(self):
        return FakeConfig(self.trt)

    def create_execution_context(self, strategy):
        graphed = isinstance(strategy, FakeConfig) and strategy.cuda_graph_strategy.name != "DISABLED"
        if isinstance(strategy, FakeConfig):
            assert strategy.cache is not None
        return FakeContext(self, graphed)

    def _run(self, gpu, shapes, addresses):
        def array(name, shape):
            dtype = np.dtype(self.trt.nptype(self.ends[name].type))
            size = int(np.prod(shape)) * dtype.itemsize
            return gpu.at(gpu.device, addresses[name], size).view(dtype).reshape(shape)

        inputs = {name: array(name, shape) for name, shape in shapes.items()}
        assert all(inputs[name].min() >= 1 for name in inputs if name.endswith("_lengths"))
        (result,) = self.session.run(None, inputs)
        array(OUTPUTS[self.graph][0], result.shape)[...] = result


class _Severity(enum.IntEnum):
    ERROR, WARNING = 1, 2


class _Logger:
    Severity = _Severity

    def __init__(self):
        pass


class _Members(enum.IntFlag):
    VERSION_MISMATCH, UNSUPPORTED_CC, OLD_CUDA_DRIVER, INSUFFICIENT_GPU_MEMORY = 1, 2, 4, 16


class FakeTensorRT(types.SimpleNamespace):
    """As the module tensorrt_rtx; `verdict` is what get_engine_validity says, `loads` whether plans deserialize."""

    def __init__(self, gpu):
        trt = self
        self.gpu, self.runs, self.uncapturable, self.loads, self.refits = gpu, [], False, True, True
        self.__version__ = VERSION
        self.ILogger = _Logger
        self.EngineValidity = enum.IntEnum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"], start=0)
        self.EngineInvalidityDiagnostics = _Members
        self.CudaGraphStrategy = enum.IntEnum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"], start=0)
        self.ComputeCapability = enum.IntEnum("ComputeCapability", ["NONE", "CURRENT", "SM75", "SM86", "SM120"])
        self.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
        self.TensorLocation = types.SimpleNamespace(DEVICE="device")
        self.verdict = (self.EngineValidity.VALID, 0)
        self.engines = []

        class Runtime:
            def __init__(self, log):
                self.log, self.engine_host_code_allowed = log, False

            def get_engine_validity(self, content):
                return trt.verdict

            def deserialize_cuda_engine(self, content):
                if not trt.loads:
                    self.log.log(_Severity.ERROR, "the plan's magic number is another")
                    return None
                engine = FakeEngine(trt, json.loads(content))
                trt.engines.append(engine)
                return engine

        class Refitter:
            def __init__(self, engine, log):
                self.engine = engine

            def get_missing_weights(self):
                return []

            def refit_cuda_engine(self):
                self.engine.refitted = trt.refits
                return trt.refits

        class OnnxParserRefitter:
            def __init__(self, refitter, log):
                self.log = log

            def refit_from_file(self, path):
                return Path(path).is_file()

        self.Runtime, self.Refitter, self.OnnxParserRefitter = Runtime, Refitter, OnnxParserRefitter

    def __hash__(self):
        return id(self)

    @staticmethod
    def nptype(kind):
        return {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}[kind]


@pytest.fixture
def make_profile():
    """make_profile(graph, name, axis=(min, opt, max), …): a profile's entry in the tiny model's manifest."""
    columns = {"features": 12, "image_states": 41, "text_states": 31}

    def make(graph, name, **ranges):
        shapes = {}
        for tensor, axes in INPUTS[graph].items():
            last = [columns[tensor]] if tensor in columns else []
            limits = zip(*(ranges[axis] for axis in axes), strict=True)
            shapes[tensor] = dict(zip(("min", "opt", "max"), ([*size, *last] for size in limits), strict=True))
        return {"name": name, "shapes": shapes}

    return make


@pytest.fixture
def default_profiles(make_profile):
    """{graph: profiles} for the tiny model: 1 to 5 regions, 1 to 12 words, small tiles."""
    R, T, one = (1, 5, 5), (1, 12, 12), (1, 1, 1)
    return {
        "image_encoder": [make_profile("image_encoder", "chunk", images=(1, 4, 4), regions=R)],
        "text_encoder": [make_profile("text_encoder", "chunk", captions=(1, 5, 5), words=T)],
        "scorer": [
            make_profile("scorer", "search", images=(1, 9, 9), regions=R, captions=one, words=T),
            make_profile("scorer", "matrix", images=(1, 3, 3), regions=R, captions=(1, 4, 4), words=T),
        ],
    }


@pytest.fixture
def add_engine(tiny_bundle, default_profiles):
    """add_engine(precision="fp32", target="tensorrt-rtx", **entries): put an engine into the tiny bundle.

    Its plans say which ONNX graph to run and which profiles there are. fp16 adds the graphs, too. Returns its name.
    """

    def add(precision="fp32", target="tensorrt-rtx", profiles=default_profiles, **entries):
        manifest = json.loads((tiny_bundle / "manifest.json").read_text())
        name = f"{target}-{precision}{entries.pop('suffix', '')}"
        for graph in GRAPHS:
            path = tiny_bundle / graph_file(graph, precision)
            if not path.is_file():
                onnx.save(to_fp16(onnx.load(tiny_bundle / graph_file(graph, "fp32"))), path)
            plan = tiny_bundle / plan_file(graph, name)
            plan.parent.mkdir(parents=True, exist_ok=True)
            plan.write_text(json.dumps({"graph": graph, "onnx": str(path), "profiles": profiles[graph]}))
        manifest["precisions"].setdefault(precision, {"checks": []})
        write_manifest(tiny_bundle, manifest)
        bundle = open_bundle(tiny_bundle)
        record = {
            "target": target,
            "version": VERSION,
            "precision": precision,
            "compute_capabilities": [],
            "options": {"version_compatible": False, "hardware_compatible": False, "stripped": False},
            "profiles": profiles,
            "onnx": {graph: bundle.hash_of(graph_file(graph, precision)) for graph in GRAPHS},
            "checks": [],
            "run": None,
        }
        manifest.setdefault("engines", {})[name] = {**record, **entries}
        write_manifest(tiny_bundle, manifest)
        return name

    return add


@pytest.fixture
def gpu():
    return FakeGpu()


@pytest.fixture
def trt(gpu):
    return FakeTensorRT(gpu)


@pytest.fixture
def on_a_gpu(monkeypatch, gpu, trt):
    """This machine has a GPU, and both TensorRTs are installed."""
    look = engines.Machine({"tensorrt": VERSION, "tensorrt-rtx": VERSION}, CAPABILITY, ("7.5", "8.6", "12.0"))
    monkeypatch.setattr(tensorrt_backend, "this_machine", lambda: look)
    monkeypatch.setattr(tensorrt_backend, "installed_module", lambda target: trt)
    monkeypatch.setattr(tensorrt_backend.Gpu, "open", lambda: gpu)
    monkeypatch.setattr(engines, "has_nvidia_driver", lambda: True)


@pytest.fixture
def stand_ins(trt):
    """{name in TensorRT's module: class that stands in for it}."""
    return {
        "IExecutionContext": FakeContext,
        "ICudaEngine": FakeEngine,
        "IRuntimeConfig": FakeConfig,
        "IRuntimeCache": FakeKernels,
        "Runtime": trt.Runtime,
        "Refitter": trt.Refitter,
        "OnnxParserRefitter": trt.OnnxParserRefitter,
    }


@pytest.fixture
def stand_in_gpu():
    return FakeGpu
