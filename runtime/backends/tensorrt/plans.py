"""Plans: loads, checks and runs one graph's engine, and restores its weights if it was stripped.

Experimental: tested with stand-ins, has run on no GPU yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ...._cache import cache_folder, read_cached, sealed, unsealed, write_cached
from ...._files import read_regular
from ....bundle import INPUTS, OUTPUTS, Bundle, graph_file, plan_file
from ....engines.log import log_of
from ....engines.profiles import Profile, Shape, Sizes
from ....engines.record import EngineRecord
from ....errors import BundleError, CaanError, MissingError

# TensorRT for RTX's diagnoses: the reason, and whether rebuilding the engine helps.
_DIAGNOSES = {
    "VERSION_MISMATCH": ("another version of TensorRT built it", True),
    "UNSUPPORTED_CC": ("it is not for this GPU's compute capability", True),
    "OLD_CUDA_DRIVER": ("the GPU's driver is too old", False),
    "OLD_CUDA_RUNTIME": ("the CUDA runtime is too old", False),
    "INSUFFICIENT_GPU_MEMORY": ("the GPU has too little memory", False),
    "MALFORMED_ENGINE": ("it is not in the format of a plan", True),
    "CUDA_ERROR": ("CUDA's driver or runtime is not properly installed", False),
}


class Plan:
    """One graph's engine, loaded on the GPU. Thread-safe, as long as threads use separate contexts."""

    def __init__(
        self, trt: Any, runtime: Any, engine: Any, graph: str, names: list[str], kernels: KernelCache | None
    ) -> None:
        """names: of the profiles, from the manifest; kernels: TensorRT for RTX's kernel cache, else None."""
        self._trt, self._runtime, self._engine, self._kernels = trt, runtime, engine, kernels
        self._configs: dict[bool, Any] = {}  # TensorRT for RTX only; key: repeating
        self._lock = Lock()
        self.graph = graph
        self.output, self._output_axes = OUTPUTS[graph]
        tensors = [*INPUTS[graph], self.output]
        self.dtypes = {name: np.dtype(trt.nptype(engine.get_tensor_dtype(name))) for name in tensors}
        self.columns = {  # tensor → size of its last axis, if static
            name: int(tuple(engine.get_tensor_shape(name))[-1])
            for name in tensors
            if name.startswith("features") or name.endswith("states")
        }
        self.profiles = [
            Profile.of_shapes(
                graph,
                names[index] if index < len(names) else f"profile {index}",
                {name: engine.get_tensor_profile_shape(name, index) for name in INPUTS[graph]},
            )
            for index in range(engine.num_optimization_profiles)
        ]
        self.scratch_bytes = int(engine.device_memory_size_v2)

    @property
    def captures_itself(self) -> bool:
        """Whether it is TensorRT for RTX, which captures CUDA graphs itself if configured to."""
        return self._kernels is not None

    def input_shapes(self, sizes: Sizes) -> dict[str, Shape]:
        """{input: shape} for a call of these sizes."""
        return {name: self._shape(name, axes, sizes) for name, axes in INPUTS[self.graph].items()}

    def output_shape(self, sizes: Sizes) -> Shape:
        return self._shape(self.output, self._output_axes, sizes)

    def output_part(self, sizes: Sizes) -> tuple[slice, ...]:
        """The slices of a padded output that hold the result for these sizes."""
        return tuple(slice(sizes[axis]) for axis in self._output_axes)

    def new_context(self, profile: int, scratch: Any, stream: Any, *, repeating: bool) -> Any:
        """An execution context for the profile with this index.

        scratch: device memory of at least `scratch_bytes` for it to use; repeating: for fixed shapes and addresses, for
        which a CUDA graph pays off.
        """
        with self._lock:
            context = self._create(repeating)
        if context is None:
            raise self.failure("no execution context can be made")
        context.set_device_memory(scratch.address, scratch.size)
        if not context.set_optimization_profile_async(profile, int(stream.handle)):
            raise self.failure(f"the profile {self.profiles[profile].name} can't be chosen")
        stream.sync()
        return context

    def bind(self, context: Any, shapes: Mapping[str, Shape], addresses: Mapping[str, int], expected: Shape) -> None:
        """Set a context's shapes and addresses. expected: the output's shape."""
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self.failure(f"{name} can't have the shape {shape}")
        if missing := context.infer_shapes():
            raise self.failure(f"the shapes of {', '.join(missing)} are not known")
        shape = tuple(context.get_tensor_shape(self.output))
        if shape != expected:
            raise self.failure(f"{self.output} has the shape {shape}, not {expected}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self.failure(f"{name} can't be at the address {address:#x}")

    def execute(self, context: Any, stream: Any) -> None:
        """Enqueue a run."""
        if not context.execute_async_v3(int(stream.handle)):
            raise self.failure("it did not run")

    def save_kernels(self) -> None:
        """Save the kernels compiled for this GPU."""
        if self._kernels is not None:
            self._kernels.save()

    def failure(self, what: str) -> CaanError:
        """An error that includes TensorRT's last message."""
        errors = log_of(self._trt).errors
        return CaanError(f"TensorRT failed on the {self.graph}: {what}{f' ({errors[-1][:300]})' if errors else ''}")

    def _shape(self, tensor: str, axes: tuple[str, ...], sizes: Sizes) -> Shape:
        last = (self.columns[tensor],) if tensor in self.columns else ()
        return (*(sizes[axis] for axis in axes), *last)

    def _create(self, repeating: bool) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._kernels is None:
            return self._engine.create_execution_context(strategy)
        if repeating not in self._configs:
            config = self._configs[repeating] = self._engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            graphs = self._trt.CudaGraphStrategy
            config.cuda_graph_strategy = graphs.WHOLE_GRAPH_CAPTURE if repeating else graphs.DISABLED
            self._kernels.attach(config)
        return self._engine.create_execution_context(self._configs[repeating])


class KernelCache:
    """Cache of the kernels that TensorRT for RTX compiles for this GPU when it creates a context."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cache: Any = None
        self._stored = b""

    def attach(self, config: Any) -> None:
        """Make contexts created with this IRuntimeConfig use the cache."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            # TensorRT itself rejects kernels of another GPU, driver or version.
            self._stored = read_cached(self._file, unsealed) or b""
            if self._stored:
                self._cache.deserialize(self._stored)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Save the compiled kernels. If that fails, the next run is slower, but correct."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize())
        if content != self._stored:
            write_cached(self._file, sealed(content), "compiled kernels")
            self._stored = content


def load_plan(trt: Any, record: EngineRecord, bundle: Bundle, graph: str, capability: str) -> Plan:
    """Load one graph's plan of an engine that passed `check_engine`, on a GPU of this compute capability.

    Raises BundleError, with the command that rebuilds it, if TensorRT rejects it; MissingError if the machine is the
    reason.
    """
    path, log, rebuild = bundle.folder / plan_file(graph, record.name), log_of(trt), record.rebuild(bundle)
    log.errors.clear()
    runtime = trt.Runtime(log)
    try:
        content = read_regular(path)
    except OSError as error:
        raise BundleError(f"{path} can't be read ({error.strerror}); copy the bundle again") from error
    bundle.compare(plan_file(graph, record.name), content)
    if hasattr(runtime, "get_engine_validity"):
        _check_validity(trt, runtime.get_engine_validity(content), path, rebuild)
    if record.options.version_compatible:
        # Such a plan contains its own runtime code, which is as trusted as the plan itself.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise _refused(path, "TensorRT does not load it", log, rebuild)
    if record.options.stripped:
        _refit(trt, engine, bundle.folder / graph_file(graph, record.precision), path, rebuild)
    tensors = {engine.get_tensor_name(number) for number in range(engine.num_io_tensors)}
    if tensors != {*INPUTS[graph], OUTPUTS[graph][0]}:
        raise _refused(path, f"it is not the {graph}: its tensors are {', '.join(sorted(tensors))}", log, rebuild)
    on_host = [name for name in tensors if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE]
    if on_host:
        raise _refused(path, f"it requires {', '.join(sorted(on_host))} in host memory", log, rebuild)
    kernels = None
    if record.target == "tensorrt-rtx":
        name = f"{bundle.hash_of(plan_file(graph, record.name))[:40]}-{capability}.cache"
        kernels = KernelCache(cache_folder("runtime") / name)
    return Plan(trt, runtime, engine, graph, [profile.name for profile in record.profiles[graph]], kernels)


def _check_validity(trt: Any, verdict: tuple[Any, int], path: Path, rebuild: str) -> None:
    validity, mask = verdict
    if validity != trt.EngineValidity.INVALID:
        return
    names = [name for name, bit in trt.EngineInvalidityDiagnostics.__members__.items() if int(bit) & int(mask)]
    reasons = [_DIAGNOSES.get(name, (name.lower().replace("_", " "), True)) for name in names]
    errors = log_of(trt).errors
    text = ", ".join(reason for reason, _ in reasons) or (errors[-1][:300] if errors else "TensorRT gives no reason")
    if reasons and not any(helps for _, helps in reasons):
        raise MissingError(f"{path} can't be loaded here: {text}; see caan doctor")
    raise BundleError(f"{path} can't be loaded here: {text}; build it again: {rebuild}")


def _refit(trt: Any, engine: Any, graph: Path, path: Path, rebuild: str) -> None:
    """Restore a stripped plan's weights from its ONNX graph."""
    log = log_of(trt)
    try:
        refitter = trt.Refitter(engine, log)
    except TypeError as error:  # how the bindings report a plan that can't be refitted
        raise _refused(path, "its weights were stripped, and it can't be refitted", log, rebuild) from error
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(graph)) or refitter.get_missing_weights() or not refitter.refit_cuda_engine():
        raise _refused(path, f"its weights can't be taken from {graph.name}", log, rebuild)


def _refused(path: Path, what: str, log: Any, rebuild: str) -> BundleError:
    detail = f" ({log.errors[-1][:300]})" if log.errors else ""
    return BundleError(f"{path} can't be used: {what}{detail}; build it again: {rebuild}")
