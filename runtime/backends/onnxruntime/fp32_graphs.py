"""The graphs that a bundle has in FP32 alone, on the CPU whatever the backend: what explains, and what expands."""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ....bundle import EXPANDER, EXPLAINER, Bundle
from ....graphs import check_result, read_graph
from ...casting import convert
from ..contract import Tile
from .sessions import open_session, run_session

if TYPE_CHECKING:
    import onnxruntime as ort

_STATES = np.dtype(np.float32)  # as the graphs take them


class Fp32Graphs:
    """A bundle's explainer and expander, each opened when it is first used. Thread-safe.

    The bundle may have been replaced by then: a graph that is not the one which the bundle was opened with is refused.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._bundle, self._threads = bundle, threads
        self._start_anew()

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        """As `Backend.explain`. Raises BundleError and MissingError as `expand_regions`."""
        session = self._session(EXPLAINER)
        images, texts = convert(tile.image_states, _STATES), convert(tile.text_states, _STATES)
        inputs = tile._replace(image_states=images, text_states=texts)._asdict()
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, run_session(session, inputs), strict=True))

    def expand_regions(self, regions: NDArray[np.floating]) -> NDArray[np.float32]:
        """As `Backend.expand_regions`.

        Raises BundleError for a bundle without the graph, or replaced since it was opened; MissingError without
        ONNX Runtime.
        """
        inputs = {"regions": convert(regions, _STATES)}
        states = run_session(self._session(EXPANDER), inputs)[0]
        check_result(EXPANDER, inputs, states)
        return states

    def _start_anew(self) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._opening, self._process = Lock(), os.getpid()

    def _session(self, name: str) -> ort.InferenceSession:
        if self._process != os.getpid():  # a fork has none of the threads that its parent's sessions would wait for
            self._start_anew()
        with self._opening:
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def _open(self, name: str) -> ort.InferenceSession:
        path = self._bundle.side_graph(name)
        # Hashed, checked and loaded from the same bytes: nothing can come in between.
        content = read_graph(self._bundle, name, "fp32")
        return open_session(path, "cpu", self._threads, content=content, purpose=f"the {name} graph")
