"""Backend `onnxruntime`: the bundle's ONNX graphs on the CPU, or on an NVIDIA GPU through the CUDA provider."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...._machine import chosen_threads
from ...._onnxruntime import onnxruntime
from ....bundle import GRAPHS, Bundle, graph_file
from ....graphs import read_graph
from ..contract import GraphTiles, Layout, Tile, Tiles
from ..from_bundle import open_precision
from .encoders import OnnxEncoders
from .sessions import open_session

if TYPE_CHECKING:
    import onnxruntime as ort

_SINGLE = "single_scorer"  # the scorer on one thread


class OnnxBackend(OnnxEncoders):
    """The three graphs as ONNX Runtime sessions. Thread-safe: sessions run concurrently."""

    name = "onnxruntime"
    tiles: Tiles = GraphTiles()
    graphs = GRAPHS
    yielding = False

    def __init__(self, bundle: Bundle, precision: str, device: str, threads: int | None) -> None:
        super().__init__(bundle, precision, device, threads)
        threads = chosen_threads(threads)
        self.layouts: list[Layout | None] = [Layout(1, threads)]
        if self.device == "cpu" and threads > 1:
            # Threads sharing a call synchronize after every product; single-threaded calls don't.
            self._sessions[_SINGLE] = self._open(_SINGLE)
            self.layouts.append(Layout(threads, 1))
        version, scorer = onnxruntime().__version__, bundle.hash_of(graph_file("scorer", precision))
        self.fingerprint = f"onnxruntime {version} {self.device} {precision} {scorer}"

    @classmethod
    def open(cls, path: Path, precision: str, device: str, threads: int | None) -> OnnxBackend:
        return open_precision(path, precision, lambda bundle: cls(bundle, precision, device, threads))

    def _open(self, name: str) -> ort.InferenceSession:
        if name == _SINGLE:
            content = read_graph(self._bundle, "scorer", self.precision)
            return open_session(self._bundle.graph("scorer", self.precision), "cpu", 1, content=content)
        return super()._open(name)

    def score_tiles(self, tiles: Iterable[Tile], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        if layout is None or layout.workers == 1:
            return starmap(self.score, tiles)
        return score_concurrently(lambda tile: self._run(_SINGLE, **tile._asdict()), tiles, layout.workers)

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


def score_concurrently(
    score: Callable[[Tile], NDArray[np.float32]], tiles: Iterable[Tile], workers: int
) -> Iterator[NDArray[np.float32]]:
    """`score` of each tile, in order, `workers` at a time; one more tile is prepared meanwhile."""
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
            for future in waiting:
                future.cancel()
