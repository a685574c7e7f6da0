"""Encoders and FP32 graphs of a bundle in ONNX Runtime: the base of backends with their own scorer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ....bundle import VOCABULARY, Bundle
from ....data.vocabulary import Vocabulary
from ....errors import BundleError, MissingError
from ....graphs import check_result, read_graph
from ....sketch import sketch_of
from ..contract import Model, Tile
from ..device_cache import DeviceCache
from ..from_bundle import check_sizes, encoder_hashes
from ..pooled import PoolsByExplaining
from .fp32_graphs import Fp32Graphs
from .sessions import check_rounding, choose_device, open_session, run_bound, run_session

if TYPE_CHECKING:
    import onnxruntime as ort

_DTYPES: dict[str, np.dtype[Any]] = {"tensor(float)": np.dtype(np.float32), "tensor(float16)": np.dtype(np.float16)}
# Fixed, since ONNX Runtime does not report free device memory.
_RESIDENT_BYTES = 1 << 30


class OnnxEncoders(PoolsByExplaining):
    """`Backend` without the scorer, which a subclass adds. Thread-safe: sessions run concurrently."""

    graphs: Sequence[str] = ("image_encoder", "text_encoder")  # opened on construction
    # Whether the graphs' threads, which spin for a while after each call, must yield the CPU to the scorer's threads.
    yielding = True

    def __init__(self, bundle: Bundle, precision: str, device: str, threads: int | None) -> None:
        for name in self.graphs:
            bundle.graph(name, precision)  # refuse a missing precision first
        check_rounding(bundle, precision)
        self._bundle, self._threads, self._sessions_process = bundle, threads, os.getpid()
        self.precision = self._graphs_precision = precision
        vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
        hashes = encoder_hashes(bundle, precision)
        self.model = Model(bundle.config, bundle.manifest["limits"], vocabulary, hashes, sketch_of(bundle))
        self.device = choose_device(device)
        try:
            self._sessions = {name: self._open(name) for name in self.graphs}
        except MissingError:
            if device != "auto":
                raise
            # onnxruntime-gpu without a usable GPU: "auto" falls back to the CPU.
            self.device = "cpu"
            self._sessions = {name: self._open(name) for name in self.graphs}
        self.process_bound = "" if self.device == "cpu" else "a GPU"
        image, text = self._sessions["image_encoder"], self._sessions["text_encoder"]
        ends = (image.get_inputs()[0], image.get_outputs()[0], text.get_outputs()[0])
        check_sizes(bundle, vocabulary, {end.name: end.shape[-1] for end in ends})
        self.state_dtype = self._state_dtype(bundle)
        self._fp32_graphs = Fp32Graphs(bundle, threads)
        self._residents: DeviceCache[ort.OrtValue] = DeviceCache(lambda: _RESIDENT_BYTES)

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        return self._run("image_encoder", features=features)

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        return self._run("text_encoder", tokens=tokens, text_lengths=lengths)

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        return self._fp32_graphs.explain(tile)

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._fp32_graphs.expand_regions(regions)

    def _open(self, name: str) -> ort.InferenceSession:
        path = self._bundle.graph(name, self._graphs_precision)
        content = read_graph(self._bundle, name, self._graphs_precision)
        return open_session(path, self.device, self._threads, content=content, yielding=self.yielding)

    def _process_sessions(self) -> dict[str, ort.InferenceSession]:
        """This process's sessions: after a fork, the threads of the parent's sessions do not exist.

        Raises BundleError if the graphs differ from those the parent opened.
        """
        if self._sessions_process != os.getpid():
            self._sessions = {name: self._open(name) for name in self._sessions}
            self._sessions_process = os.getpid()
        return self._sessions

    def _state_dtype(self, bundle: Bundle) -> np.dtype[Any]:
        ends = [end for session in self._sessions.values() for end in (*session.get_inputs(), *session.get_outputs())]
        types = {end.type for end in ends if end.name.endswith("_states")}
        if len(types) != 1 or not types <= set(_DTYPES):
            raise BundleError(
                f"{bundle.folder}: its {self.precision} graphs do not fit each other, states are"
                f" {' and '.join(sorted(types))}; export the checkpoint again"
            )
        return _DTYPES[types.pop()]

    def _run(self, graph: str, **inputs: NDArray[Any]) -> NDArray[Any]:
        session = self._process_sessions()[graph]
        if self.device == "cpu":
            output = run_session(session, inputs)[0]
        else:
            output = run_bound(session, inputs, self.device, self._residents)
        check_result(graph.removeprefix("single_"), inputs, output)
        return output
