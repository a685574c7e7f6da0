"""Kept libraries as first stages, at equal recall of CAAN's exact ten best: `python -m caan.bench.rivals`.

Text → image. Every library gets the same images and gives n candidates, which CAAN then scores exactly, as ours do.
faiss and LanceDB search the pooled vectors before their projection to a sketch, D columns each; fast-plaid the regions'
own vectors. Packages that aren't installed are skipped with the reason: `pip install --group rivals`; fast-plaid needs
PyTorch 2.11, so it has an environment of its own, named by --plaid-python.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CANDIDATES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
K = 10
_HNSW_LINKS, _HNSW_BUILD = 32, 200

Vectors = NDArray[np.float32]  # (items, D)
Best = Callable[[NDArray[np.float32], int], NDArray[np.int64]]  # one query (D,), n → the best n items


@dataclass(frozen=True)
class Stage:
    """A library's index: what it is called, seconds to build, bytes, and its search with each setting."""

    name: str
    build_seconds: float
    bytes: int
    settings: dict[str, Best]


@dataclass(frozen=True)
class Reached:
    """The cheapest way of a stage to a recall: its setting, n, milliseconds of the stage and with exact scores."""

    setting: str
    candidates: int
    recall: float
    stage_milliseconds: float
    milliseconds: float


def faiss_stages(vectors: Vectors) -> list[Stage]:
    """HNSW and SQ8 by inner product."""
    import faiss

    columns, product = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    graph = faiss.IndexHNSWFlat(columns, _HNSW_LINKS, product)
    graph.hnsw.efConstruction = _HNSW_BUILD
    bytes_each = faiss.IndexScalarQuantizer(columns, faiss.ScalarQuantizer.QT_8bit, product)
    stages = []
    for name, index, breadths in (("faiss HNSW", graph, (32, 128, 512, 2048)), ("faiss SQ8", bytes_each, (0,))):
        start = time.perf_counter()
        index.train(vectors)
        index.add(vectors)
        took = time.perf_counter() - start
        settings = {f"efSearch {breadth}" if breadth else "": _faiss_best(index, breadth) for breadth in breadths}
        stages.append(Stage(name, took, len(faiss.serialize_index(index)), settings))
    return stages


def _faiss_best(index: Any, breadth: int) -> Best:
    def best(query: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        if breadth:
            index.hnsw.efSearch = max(breadth, n)
        found: NDArray[np.int64] = index.search(query[None], n)[1][0]
        return found[found >= 0]

    return best


def lancedb_stage(vectors: Vectors, folder: Path) -> Stage:
    """IvfPq by inner product, in a table on disk."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    columns = vectors.shape[1]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), columns)
    rows = pa.table({"id": pa.array(np.arange(len(vectors))), "vector": flat})
    start = time.perf_counter()
    table = lancedb.connect(folder).create_table("images", rows)
    partitions = max(1, int(len(vectors) ** 0.5))
    config = IvfPq(distance_type="dot", num_partitions=partitions, num_sub_vectors=columns // 4)
    table.create_index("vector", config=config)
    took = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return Stage(
        "LanceDB IvfPq", took, size, {f"nprobes {probes}": _lancedb_best(table, probes) for probes in (10, 40, 160)}
    )


def _lancedb_best(table: Any, probes: int) -> Best:
    def best(query: NDArray[np.float32], n: int) -> NDArray[np.int64]:
        search = table.search(query).distance_type("dot").nprobes(probes).limit(n).select(["id"])
        found: NDArray[np.int64] = search.to_arrow()["id"].to_numpy()
        return found

    return best


def reaching(
    stage: Stage,
    queries: Vectors,
    exact: NDArray[np.float32],
    score: Callable[[int, NDArray[np.int64]], object],
    recall: float,
) -> Reached | None:
    """The fastest setting and number of candidates with this recall; None if none has it.

    exact: (queries, items) CAAN's scores; an item counts if its score is at least the k-th. score: scores a query's
    candidates exactly, as a search does.
    """
    least = np.sort(exact, axis=1)[:, -K]
    fastest: Reached | None = None
    for name, best in stage.settings.items():
        for n in (n for n in CANDIDATES if n < exact.shape[1]):
            found = [best(query, n) for query in queries]
            share = np.mean([(exact[row, ids] >= least[row]).sum().clip(max=K) / K for row, ids in enumerate(found)])
            if share < recall:
                continue
            first, both = np.median([_timed(best, score, row, query, n) for row, query in enumerate(queries)], axis=0)
            one = Reached(name, n, float(share), 1000 * float(first), 1000 * float(both))
            fastest = one if fastest is None or one.milliseconds < fastest.milliseconds else fastest
            break  # more candidates cost more
    return fastest


def _timed(
    best: Best, score: Callable[[int, NDArray[np.int64]], object], row: int, query: NDArray[np.float32], n: int
) -> tuple[float, float]:
    start = time.perf_counter()
    ids = best(query, n)
    found = time.perf_counter() - start
    score(row, ids)
    return found, time.perf_counter() - start
