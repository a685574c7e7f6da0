"""The graphs that a bundle has in FP32 alone, on the CPU whatever the backend: what explains, and what expands."""

from __future__ import annotations

import hashlib
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._machine import chosen_threads
from ..bundle import EXPANDER, EXPLAINER, Bundle, graph_file
from ..errors import BundleError, needs
from .backend import Tile
from .states import convert

if TYPE_CHECKING:
    import onnxruntime as ort

_STATES = np.dtype(np.float32)  # as the graphs take them


class SideGraphs:
    """A bundle's explainer and expander, each opened when it is first used. Thread-safe.

    The bundle may have been replaced by then: a graph that is not the one which the bundle was opened with is refused.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._bundle, self._threads = bundle, threads
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._opening = Lock()

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        """As `Backend.explain`. Raises BundleError and MissingError as `expand_regions`."""
        session = self._session(EXPLAINER)
        images, texts = convert(tile.image_states, _STATES), convert(tile.text_states, _STATES)
        inputs = tile._replace(image_states=images, text_states=texts)._asdict()
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    def expand_regions(self, regions: NDArray[np.floating]) -> NDArray[np.float32]:
        """As `Backend.expand_regions`.

        Raises BundleError for a bundle without the graph, or replaced since it was opened; MissingError without
        ONNX Runtime.
        """
        states: NDArray[np.float32] = self._session(EXPANDER).run(None, {"regions": convert(regions, _STATES)})[0]
        return states

    def _session(self, name: str) -> ort.InferenceSession:
        with self._opening:
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def _open(self, name: str) -> ort.InferenceSession:
        path = self._bundle.side_graph(name)
        with needs("cpu", f"the {name} graph"):
            import onnxruntime as ort
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"can't read {path}: {error.strerror}; open the bundle again") from error
        # Hashed and loaded from the same bytes: nothing can come in between.
        if hashlib.sha256(content).hexdigest() != self._bundle.hash_of(graph_file(name, "fp32")):
            raise BundleError(f"{path} is not the file this bundle was opened with, it was replaced; open it again")
        options = ort.SessionOptions()
        options.intra_op_num_threads = chosen_threads(self._threads)
        options.log_severity_level = 3
        try:
            return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common type of their own
            raise BundleError(f"ONNX Runtime {ort.__version__} can't load {path}: {error}") from error
