"""One ONNX graph → one TensorRT plan.

An engine is the plans of a bundle's three graphs, built by one target in one precision. The graphs fix the precision:
TensorRT's networks are strongly typed, so every cast is in the graph.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._cache import cache_folder, read_cached, sealed, unsealed, write_cached
from .._machine import nvidia_gpus
from .._progress import progress_bar
from ..engines.profiles import Profile
from ..errors import CaanWarning, ExportError, InputError
from .targets import HARDWARE_COMPATIBLE, STRIP_WEIGHTS, TIMING_CACHE, VERSION_COMPATIBLE, Target

_CACHE_MAGIC = b"caan-timing-cache 1\n"
# How long the main thread may delay Ctrl-C where waiting on a lock is not interruptible, as on Windows.
_POLL_SECONDS = 0.2
_LONGEST_REASON = 300


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Raises InputError for a level outside 0 to 5, or a workspace below 1 MiB."""

    compute_capabilities: tuple[str, ...] = ()  # from `Target.check_capabilities`; empty: the target's default
    optimization_level: int = 3
    workspace_mib: int | None = None  # scratch device memory per layer; None: TensorRT's default
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    timing_cache: Path | None = None  # None: one per target, version and GPU in the user's cache

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise InputError(f"the builder's optimization level is 0 to 5, not {self.optimization_level}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"the workspace is at least 1 MiB, not {self.workspace_mib}")

    def check(self, target: Target) -> None:
        """Raise InputError for an option or a compute capability that the target does not support."""
        target.check_capabilities(self.compute_capabilities)
        for is_set, option in (
            (self.version_compatible, VERSION_COMPATIBLE),
            (self.hardware_compatible, HARDWARE_COMPATIBLE),
            (self.strip_weights, STRIP_WEIGHTS),
            (self.timing_cache is not None, TIMING_CACHE),
        ):
            if is_set:
                target.check_option(option)


def build_plan(
    target: Target,
    graph: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    progress: bool = True,
) -> bytes:
    """Build the plan of one ONNX file; `progress` shows a bar on standard error if that is a terminal.

    Raises InputError as `BuildOptions.check`, ExportError if TensorRT refuses the graph (naming the node) or can't
    build it, KeyboardInterrupt on Ctrl-C once TensorRT's current step is done. Warns (CaanWarning) of an unusable
    timing cache.
    """
    options.check(target)
    trt, log = target.module, target.log
    log.errors.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(network, target, graph)
    config = _configure(builder, target, options)
    for profile in profiles:
        _add_profile(builder, config, profile)
    timings = _TimingCache.open(config, target, options)
    # Redraw at time intervals, not per step.
    shape = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}", "miniters": 0}
    with progress_bar(1.0, f"building {graph.name.split('.')[0]}", "build", progress, **shape) as bar:
        monitor = target.monitor(bar, [profile.name for profile in profiles])
        config.progress_monitor = monitor
        plan = _interruptible(lambda: _build(builder, network, config), monitor.cancel)
        if plan is None:
            raise _failed(log.errors, target, graph, options)
        bar.set_postfix_str("", refresh=False)
        bar.update(1 - bar.n)
    if timings is not None:
        timings.save(config)
    return bytes(plan)


def timing_cache_file(target: Target) -> Path:
    """The timing cache's file: timings are valid for one TensorRT version on one GPU model."""
    device = hashlib.sha256(" ".join(nvidia_gpus()[:1]).encode()).hexdigest()[:12]
    return cache_folder("timing") / f"{target.name}-{target.version}-{device}.cache"


def _parse(network: Any, target: Target, graph: Path) -> None:
    parser = target.module.OnnxParser(network, target.log)
    if not parser.parse_from_file(str(graph)):
        raise _refused([parser.get_error(number) for number in range(parser.num_errors)], target, graph)


def _configure(builder: Any, target: Target, options: BuildOptions) -> Any:
    trt, config = target.module, builder.create_builder_config()
    # Else the engine inspector reports layer names without types.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = options.optimization_level
    # On by default, but FP32 products with TF32's 10-bit mantissa fail the FP32 gate.
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.compute_capabilities:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for number, capability in enumerate(options.compute_capabilities):
            config.set_compute_capability(target.capability(capability), number)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    return config


def _add_profile(builder: Any, config: Any, profile: Profile) -> None:
    shape_ranges = builder.create_optimization_profile()
    for tensor, shapes in profile.shapes.items():
        shape_ranges.set_shape(tensor, *shapes)
    config.add_optimization_profile(shape_ranges)  # the build reports an invalid one, with TensorRT's reason


def _build(builder: Any, network: Any, config: Any) -> Any:
    # Out of memory, TensorRT raises MemoryError or returns None.
    with suppress(MemoryError):
        return builder.build_serialized_network(network, config)
    return None


def _interruptible(build: Callable[[], Any], cancel: Callable[[], None]) -> Any:
    """Run `build` and return its result. Ctrl-C calls `cancel`, waits for the build to stop, and is raised.

    The build runs in its own thread: Python handles signals only in the main thread, between bytecode instructions, not
    inside TensorRT.
    """
    with ThreadPoolExecutor(1, "build") as pool:
        try:
            future = pool.submit(build)
            while not wait([future], _POLL_SECONDS).done:
                pass
            return future.result()
        except BaseException:
            cancel()
            raise


def _refused(errors: Sequence[Any], target: Target, graph: Path) -> ExportError:
    """The parser's first error, and the number of further ones."""
    first = errors[0]
    # The error of an unsupported operator is just "false".
    reason = _plain(first.desc()).removesuffix("false").strip() or "the operator is not supported"
    if first.node() < 0:
        return ExportError(f"{target} can't read {graph}: {reason}; export the checkpoint again")
    name = first.node_name()
    other = "" if ".fp32." in graph.name else f", or keep it in float32: --keep-fp32 '{name}'"
    return ExportError(
        f"{target} can't take the node '{name}' ({first.node_operator()}) of {graph.name}: {reason}{_more(errors)}\n"
        f"update TensorRT: {target.update}{other}"
    )


def _failed(errors: Sequence[str], target: Target, graph: Path, options: BuildOptions) -> ExportError:
    # Without a driver, every real error is followed by one about the missing driver.
    relevant = [text for text in errors if "cudaError 35" not in text] or list(errors)
    reason = _plain(relevant[0]) if relevant else "it gave no reason, as when memory runs out"
    if options.workspace_mib is not None:
        remedy = f"allow it more memory than --workspace {options.workspace_mib} (MiB)"
    elif options.compute_capabilities:
        remedy = "not every GPU has every precision: try --fp16, or another --compute-capability"
    else:
        remedy = "--profile with smaller shapes needs less memory"
    return ExportError(
        f"{target} can't build {graph.name}: {reason}{_more(relevant)}\n{remedy}; or update TensorRT: {target.update}"
    )


def _more(errors: Sequence[Any]) -> str:
    count = len(errors) - 1
    return f" ({count} more error{'s' if count > 1 else ''})" if count > 0 else ""


def _plain(text: str) -> str:
    """TensorRT's message without its function names and source lines, on one line."""
    text = re.sub(r"^Invalid Node - [^\n]*\n", "", text).split("\n")[0]
    text = re.sub(r"^.*?Error Code \d+: [\w ]+\((.*)\)$", r"\1", text)
    text = re.sub(r"\[[\w./]+:\d+: \w+\] |\.? In \w+ at /\S+", "", text)
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}…"


class _TimingCache:
    """Timings from earlier TensorRT builds, in a file with a checksum."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, config: Any, target: Target, options: BuildOptions) -> _TimingCache | None:
        """Load the cache into a build; None if the target has no timing cache."""
        if TIMING_CACHE in target.lacks:
            return None
        result = cls(options.timing_cache or timing_cache_file(target))
        content = result._read()
        timings = config.create_timing_cache(content)
        if timings is None or not config.set_timing_cache(timings, False):
            result._warn("TensorRT rejects it")
            config.set_timing_cache(config.create_timing_cache(b""), False)
        return result

    def save(self, config: Any) -> None:
        timings = config.get_timing_cache()
        if timings is None:  # the build had none
            return
        write_cached(self.path, sealed(bytes(timings.serialize()), _CACHE_MAGIC), "the timing cache")

    def _read(self) -> bytes:
        """The cache's content; empty if the file is missing or damaged."""

        def read(stored: bytes) -> bytes:
            try:
                return unsealed(stored, _CACHE_MAGIC)
            except ValueError as error:
                raise ValueError("it is damaged, or not a timing cache of caan") from error

        return read_cached(self.path, read, self._warn) or b""

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"the timing cache {self.path} was not used: {reason}; layers are timed again", CaanWarning, stacklevel=5
        )
