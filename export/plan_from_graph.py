"""One ONNX graph → one TensorRT plan, and what the manifest says of an engine.

An engine is the plans of a bundle's three graphs, built by one target in one precision. The precision is in the
graphs: TensorRT's networks are strongly typed, nothing is cast that the graph does not cast.
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

from .._files import atomic_file, cache_folder, read_regular
from .._machine import nvidia_gpus
from .._progress import progress_bar
from ..engines.profiles import Profile
from ..errors import CaanWarning, ExportError, InputError, OutputError
from .targets import HARDWARE_COMPATIBLE, STRIP_WEIGHTS, TIMING_CACHE, VERSION_COMPATIBLE, Target

_CACHE_MAGIC = b"caan-timing-cache 1\n"
# How long Ctrl-C may wait for the main thread where a lock can't be interrupted, as on Windows.
_POLL_SECONDS = 0.2
_LONGEST_REASON = 300


@dataclass(frozen=True)
class BuildOptions:
    """How to build. Raises InputError for a level that is not 0 to 5, or a workspace below 1 MiB."""

    compute_capabilities: tuple[str, ...] = ()  # as `Target.check_capabilities` gives them; none: the target's default
    optimization_level: int = 3
    workspace_mib: int | None = None  # device memory that a layer may use beside its tensors; None: TensorRT's default
    version_compatible: bool = False
    hardware_compatible: bool = False
    strip_weights: bool = False
    timing_cache: Path | None = None  # None: one per target, version and GPU in the cache folder, if the target has one

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= 5:
            raise InputError(f"the builder's optimization level is 0 to 5, not {self.optimization_level}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise InputError(f"the workspace is at least 1 MiB, not {self.workspace_mib}")

    def check(self, target: Target) -> None:
        """Raise InputError for an option or a compute capability that the target does not have."""
        target.check_capabilities(self.compute_capabilities)
        for asked, option in (
            (self.version_compatible, VERSION_COMPATIBLE),
            (self.hardware_compatible, HARDWARE_COMPATIBLE),
            (self.strip_weights, STRIP_WEIGHTS),
            (self.timing_cache is not None, TIMING_CACHE),
        ):
            if asked:
                target.check_option(option)


def build_plan(
    target: Target,
    graph: Path,
    profiles: Sequence[Profile],
    options: BuildOptions,
    *,
    progress: bool = True,
) -> bytes:
    """Build the plan of one ONNX file; `progress`: a bar on standard error, where that is a terminal.

    Raises InputError as `BuildOptions.check`, ExportError if TensorRT refuses the graph (naming the node) or can't
    build it, KeyboardInterrupt on Ctrl-C as soon as TensorRT's current step is done. CaanWarning for a timing cache
    that can't be used.
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
    # Drawn again by time alone, not by step.
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
    """Where measured times are kept: they hold for one version of TensorRT on one kind of GPU."""
    device = hashlib.sha256(" ".join(nvidia_gpus()[:1]).encode()).hexdigest()[:12]
    return cache_folder("timing") / f"{target.name}-{target.version}-{device}.cache"


def _parse(network: Any, target: Target, graph: Path) -> None:
    parser = target.module.OnnxParser(network, target.log)
    if not parser.parse_from_file(str(graph)):
        raise _refused([parser.get_error(number) for number in range(parser.num_errors)], target, graph)


def _configure(builder: Any, target: Target, options: BuildOptions) -> Any:
    trt, config = target.module, builder.create_builder_config()
    # Without it the engine inspector knows layers by name alone, not their types.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = options.optimization_level
    # On by default: FP32 products of 10 bits would not keep the FP32 gate.
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
    wanted = builder.create_optimization_profile()
    for tensor, shapes in profile.shapes.items():
        wanted.set_shape(tensor, *shapes)
    config.add_optimization_profile(wanted)  # one that is wrong fails the build, with TensorRT's reason


def _build(builder: Any, network: Any, config: Any) -> Any:
    # TensorRT reports a want of memory by the one way or the other.
    with suppress(MemoryError):
        return builder.build_serialized_network(network, config)
    return None


def _interruptible(build: Callable[[], Any], cancel: Callable[[], None]) -> Any:
    """What `build` returns. Ctrl-C calls `cancel`, waits for the build to stop, and is raised.

    The build has a thread of its own: Python tells the main thread alone of a signal, and there only between two of
    its own instructions, not inside TensorRT.
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
    """What the parser did not like: its first error, and how many more there are."""
    first = errors[0]
    # An operator that is not supported fails a check whose text is "false".
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
    # Without a driver, errors that matter drag behind them one that says that there is none.
    telling = [text for text in errors if "cudaError 35" not in text] or list(errors)
    reason = _plain(telling[0]) if telling else "it gave no reason, as when memory runs out"
    if options.workspace_mib is not None:
        remedy = f"allow it more memory than --workspace {options.workspace_mib} (MiB)"
    elif options.compute_capabilities:
        remedy = "not every GPU has every precision: try --fp16, or another --compute-capability"
    else:
        remedy = "--profile with smaller shapes needs less memory"
    return ExportError(
        f"{target} can't build {graph.name}: {reason}{_more(telling)}\n{remedy}; or update TensorRT: {target.update}"
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
    """Times that TensorRT measured in earlier builds, in a file that is known to be whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, config: Any, target: Target, options: BuildOptions) -> _TimingCache | None:
        """Hand the cache's content to a build; None where the target has no cache."""
        if TIMING_CACHE in target.lacks:
            return None
        result = cls(options.timing_cache or timing_cache_file(target))
        content = result._read()
        timings = config.create_timing_cache(content)
        if timings is None or not config.set_timing_cache(timings, False):
            result._warn("TensorRT does not take it")
            config.set_timing_cache(config.create_timing_cache(b""), False)
        return result

    def save(self, config: Any) -> None:
        timings = config.get_timing_cache()
        if timings is None:  # the build had none
            return
        content = bytes(timings.serialize())
        try:
            with atomic_file(self.path) as temporary:
                temporary.write_bytes(_sealed(content))
        except OutputError as error:
            warnings.warn(f"the timing cache is not kept: {error}", CaanWarning, stacklevel=3)

    def _read(self) -> bytes:
        """The cache's content; nothing if there is no file, or a damaged one."""
        try:
            stored = read_regular(self.path)
        except FileNotFoundError:
            return b""
        except OSError as error:
            self._warn(str(error.strerror))
            return b""
        content = stored[len(_CACHE_MAGIC) + 32 :]
        if stored != _sealed(content):
            self._warn("it is damaged, or no timing cache of caan")
            return b""
        return content

    def _warn(self, reason: str) -> None:
        warnings.warn(
            f"the timing cache {self.path} was not used: {reason}; times are measured anew", CaanWarning, stacklevel=5
        )


def _sealed(content: bytes) -> bytes:
    """A timing cache as it is stored, with its hash: TensorRT is never given a damaged one."""
    return _CACHE_MAGIC + hashlib.sha256(content).digest() + content
