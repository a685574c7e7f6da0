"""Backend `onnxruntime`: the bundle's ONNX graphs on the CPU, or on an NVIDIA GPU through the CUDA provider."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from functools import cache
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._machine import default_threads, has_nvidia_driver
from ..bundle import GRAPHS, VOCABULARY, Bundle, graph_file
from ..data.vocabulary import Vocabulary
from ..errors import BundleError, MissingError, needs
from .backend import Layout, Tile
from .device_tiles import DeviceTiles
from .opening import check_sizes, encoder_hashes, open_precision
from .side_graphs import SideGraphs

if TYPE_CHECKING:
    import onnxruntime as ort

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# TF32 rounds float32's factors to 10 bits, which no longer are the scores that the export checked. Memory grows by what
# is asked for: tiles are alike, and other programs want the GPU too.
_OPTIONS = {"cpu": {}, "cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}}
_DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
# ONNX Runtime does not tell how much device memory is free.
_RESIDENT_BYTES = 1 << 30


class OnnxBackend:
    """The three graphs as ONNX Runtime sessions. Thread-safe: sessions run concurrently."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, precision: str, device: str, threads: int | None) -> None:
        paths = {name: bundle.graph(name, precision) for name in GRAPHS}
        self.precision = precision
        self.config = bundle.config
        self.limits: dict[str, int] = bundle.manifest["limits"]
        self.vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
        self.encoders = encoder_hashes(bundle, precision)
        self.device = _choose_device(device)
        try:
            self._sessions = {name: open_session(path, self.device, threads) for name, path in paths.items()}
        except MissingError:
            if device != "auto":
                raise
            # onnxruntime-gpu on a machine without a usable GPU: "auto" allowed the CPU.
            self.device = "cpu"
            self._sessions = {name: open_session(path, "cpu", threads) for name, path in paths.items()}
        self.layouts = [Layout(1, threads or default_threads())]
        if self.device == "cpu" and self.layouts[0].threads > 1:
            # Threads that share one call wait for each other after every product; calls of one thread each don't.
            self._sessions["single_scorer"] = open_session(paths["scorer"], "cpu", 1)
            self.layouts.append(Layout(self.layouts[0].threads, 1))
        version, scorer = _onnxruntime().__version__, bundle.hash_of(graph_file("scorer", precision))
        self.fingerprint = f"onnxruntime {version} {self.device} {precision} {scorer}"
        image, text = self._sessions["image_encoder"], self._sessions["text_encoder"]
        ends = (image.get_inputs()[0], image.get_outputs()[0], text.get_outputs()[0])
        check_sizes(bundle, self.vocabulary, {end.name: end.shape[-1] for end in ends})
        self.state_dtype = self._state_dtype(bundle)
        self._side_graphs = SideGraphs(bundle, threads)
        self._residents: DeviceTiles[ort.OrtValue] = DeviceTiles(lambda: _RESIDENT_BYTES)

    @classmethod
    def open(cls, path: Path, precision: str, device: str, threads: int | None) -> OnnxBackend:
        return open_precision(path, precision, lambda bundle: cls(bundle, precision, device, threads))

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        return self._run("image_encoder", features=features)

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._run("text_encoder", tokens=tokens, text_lengths=lengths)

    def score_tiles(self, tiles: Iterable[Tile], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        if layout is None or layout.workers == 1:
            return starmap(self.score, tiles)
        return side_by_side(lambda tile: self._run("single_scorer", **tile._asdict()), tiles, layout.workers)

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        return self._side_graphs.explain(tile)

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._side_graphs.expand_regions(regions)

    def tile_limits(self, regions: int, words: int) -> tuple[()]:
        return ()

    def score(
        self,
        image_states: NDArray[np.floating],
        image_lengths: NDArray[np.int64],
        text_states: NDArray[np.floating],
        text_lengths: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """States of n images and m captions, as in a `Tile` → scores (n, m)."""
        return self._run(
            "scorer",
            image_states=image_states,
            image_lengths=image_lengths,
            text_states=text_states,
            text_lengths=text_lengths,
        )

    def _state_dtype(self, bundle: Bundle) -> np.dtype[Any]:
        ends = [self._sessions[f"{side}_encoder"].get_outputs()[0] for side in ("image", "text")]
        ends += [end for end in self._sessions["scorer"].get_inputs() if end.name.endswith("states")]
        types = {end.type for end in ends}
        if len(types) != 1 or not types <= set(_DTYPES):
            raise BundleError(
                f"{bundle.folder}: its {self.precision} graphs do not fit each other, states are"
                f" {' and '.join(sorted(types))}; export the checkpoint again"
            )
        return _DTYPES[types.pop()]

    def _run(self, graph: str, **inputs: NDArray[Any]) -> NDArray[Any]:
        session = self._sessions[graph]
        if self.device == "cpu":
            output: NDArray[Any] = session.run(None, inputs)[0]
            return output
        return run_bound(session, inputs, self.device, self._residents)


def side_by_side(
    score: Callable[[Tile], NDArray[np.float32]], tiles: Iterable[Tile], workers: int
) -> Iterator[NDArray[np.float32]]:
    """`score` of each tile, in their order, so many at a time; one more is prepared meanwhile."""
    waiting: deque[Future[NDArray[np.float32]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for tile in tiles:
                waiting.append(pool.submit(score, tile))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for unwanted in waiting:
                unwanted.cancel()


def run_bound(
    session: ort.InferenceSession,
    inputs: dict[str, NDArray[Any]],
    device: str,
    residents: DeviceTiles[ort.OrtValue],
) -> NDArray[Any]:
    """Run a session whose device has memory of its own: gallery tiles are copied there once, and stay."""
    binding = session.io_binding()
    for name, array in inputs.items():
        value = residents.find(array)
        if value is None and residents.wants(array):
            # Without room on the device the array is sent again each time.
            with suppress(Exception):  # ONNX Runtime's have no common type of their own
                value = _onnxruntime().OrtValue.ortvalue_from_numpy(array, device)
                residents.keep(array, value)
        if value is None:
            binding.bind_cpu_input(name, array)
        else:
            binding.bind_ortvalue_input(name, value)
    binding.bind_output(session.get_outputs()[0].name)
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    output: NDArray[Any] = binding.copy_outputs_to_cpu()[0]
    return output


def open_session(path: Path, device: str, threads: int | None) -> ort.InferenceSession:
    """An ONNX Runtime session on exactly this device.

    ONNX Runtime drops a provider that can't load without an error, so what the session really got is compared with
    what was asked for. Raises MissingError if the device is not usable, BundleError if the graph can't be loaded.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.log_severity_level = 3  # a dropped provider is reported by the check below, once
    wanted = _PROVIDERS[device]
    if wanted not in ort.get_available_providers():
        raise _no_cuda("this onnxruntime was built without it")
    try:
        if device == "cuda":
            _load_cuda()
        session = ort.InferenceSession(path, options, providers=[(wanted, _OPTIONS[device])])
    except Exception as error:  # ONNX Runtime's exceptions have no common type of their own
        if device != "cpu":
            raise _no_cuda(str(error).splitlines()[0]) from error
        raise BundleError(f"ONNX Runtime {ort.__version__} can't load {path}: {error}") from error
    if wanted not in session.get_providers():
        raise _no_cuda(f"ONNX Runtime dropped {wanted}, its libraries or the GPU's driver did not load")
    return session


@cache
def _load_cuda() -> None:
    """Find CUDA's libraries where pip installed them. Older packages leave that to the system."""
    preload = getattr(_onnxruntime(), "preload_dlls", None)
    if preload is not None:
        # It prints what it misses, and standard output is for results.
        with redirect_stdout(sys.stderr):
            preload()


def _choose_device(device: str) -> str:
    if device != "auto":
        return device
    # The GPU package lists its CUDA provider on any machine, and complains loudly where there is no driver.
    usable = _PROVIDERS["cuda"] in _onnxruntime().get_available_providers() and has_nvidia_driver()
    return "cuda" if usable else "cpu"


def _no_cuda(reason: str) -> MissingError:
    return MissingError(
        f"the device 'cuda' can't be used: {reason}; see caan doctor, install caan-deploy[gpu] instead of [cpu], or use"
        " device 'cpu'"
    )


def _onnxruntime() -> Any:
    with needs("cpu", "the backend 'onnxruntime'"):
        import onnxruntime
    return onnxruntime
