"""A stand-in for TensorRT on the stand-in for a GPU: its engines are ONNX Runtime sessions.

Their contexts insist on what NVIDIA documents: no change while a run is on its way, no capture of the first run of a
shape, no two streams in one scratch memory.
"""

import enum
import json
import types
from pathlib import Path

import numpy as np
import onnxruntime

from caan.bundle import INPUTS, OUTPUTS
from caan.runtime.backends.tensorrt.choose_profile import sizes_of

VERSION = "1.7.1.116"


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
