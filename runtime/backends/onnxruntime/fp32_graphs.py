"""The graphs a bundle has only in FP32, explainer and expander; they run on the CPU with every backend."""

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
    """A bundle's explainer and expander, each opened on first use. Thread-safe.

    If the bundle was replaced by then, a graph that differs from the originally opened bundle's is refused.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._bundle, self._threads = bundle, threads
        self._reset()

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

    def _reset(self) -> None:
        self._sessions: dict[str, ort.InferenceSession] = {}
        self._opening, self._process = Lock(), os.getpid()

    def _session(self, name: str) -> ort.InferenceSession:
        if self._process != os.getpid():  # after a fork, the threads of the parent's sessions do not exist
            self._reset()
        with self._opening:
            if name not in self._sessions:
                self._sessions[name] = self._open(name)
            return self._sessions[name]

    def _open(self, name: str) -> ort.InferenceSession:
        path = self._bundle.side_graph(name)
        # Hashed, checked and loaded from the same bytes, so that the file can't change in between.
        content = read_graph(self._bundle, name, "fp32")
        return open_session(path, "cpu", self._threads, content=content, purpose=f"the {name} graph")
