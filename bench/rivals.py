"""Kept libraries as first stages, at equal recall of CAAN's exact ten best: `python -m caan.bench.rivals`.

Text → image. Every library gets the same images and gives n candidates, which CAAN then scores exactly, as ours do.
faiss and LanceDB search the pooled vectors before their projection to a sketch, D columns each; fast-plaid the regions'
own vectors. Packages that aren't installed are skipped with the reason: `pip install --group rivals`; fast-plaid needs
PyTorch 2.11, so it has an environment of its own, named by --plaid-python.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from .._files import temporary_folder
from .._machine import describe_machine
from ..data.scan import open_split
from ..errors import BundleError
from ..runtime import Gallery, Retriever
from ..runtime.sketches.kernels import Scanner
from ..runtime.sketches.sketcher import Sketcher
from .timing import seconds

CANDIDATES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
K = 10
_HNSW_LINKS, _HNSW_BUILD = 32, 200

Vectors = NDArray[np.float32]  # (items, D)
Best = Callable[[NDArray[Any], int], NDArray[np.int64]]  # one query (D,), n → the best n items


@dataclass(frozen=True)
class Stage:
    """A library's index: what it is called, seconds to build, bytes, and its search with each setting."""

    name: str
    build_seconds: float
    bytes: int
    settings: dict[str, Best]


@dataclass(frozen=True)
class Reached:
    """The cheapest way of a stage to a recall: its setting, n, and milliseconds per query."""

    setting: str
    candidates: int
    recall: float
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
        search = table.search(query).distance_type("dot").nprobes(probes).limit(n).select(["id", "_distance"])
        found: NDArray[np.int64] = search.to_arrow()["id"].to_numpy()
        return found

    return best


def reaching(stage: Stage, queries: NDArray[Any], exact: NDArray[np.float32], recall: float) -> Reached | None:
    """The fastest setting with the fewest candidates that have this recall; None if none has it.

    exact: (queries, items) CAAN's scores; an item counts if its score is at least the k-th.
    """
    least = np.sort(exact, axis=1)[:, -K]
    fastest: Reached | None = None
    for name, best in stage.settings.items():
        for n in (n for n in CANDIDATES if n < exact.shape[1]):
            found = [best(query, n) for query in queries]
            share = np.mean([(exact[row, ids] >= least[row]).sum().clip(max=K) / K for row, ids in enumerate(found)])
            if share >= recall:
                took = 1000 * float(np.median([seconds(partial(best, query, n)) for query in queries]))
                if fastest is None or (n, took) < (fastest.candidates, fastest.milliseconds):
                    fastest = Reached(name, n, float(share), took)
                break
    return fastest


def main() -> None:
    """Print the table of a data set's split, or of a part of it."""
    parser = argparse.ArgumentParser("python -m caan.bench.rivals", description=__doc__)
    parser.add_argument("bundle", type=Path, help="with sketches: caan sketch BUNDLE --data DIR")
    parser.add_argument("data", type=Path, help="a data set in SCAN's form")
    parser.add_argument("--split", default="test")
    parser.add_argument("--gallery", type=Path, help="of the split's images; else they are encoded here")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--recall", type=float, nargs="+", default=[0.95, 0.99])
    options = parser.parse_args()
    retriever, split = Retriever.open(options.bundle), open_split(options.data, options.split)
    gallery = retriever.encode_images(split.features) if options.gallery is None else Gallery.open(options.gallery)
    captions = split.captions[:: max(1, len(split.captions) // options.queries)][: options.queries]
    queries = retriever.encode_captions(captions)
    source = retriever.backend.model.sketch
    if source is None:
        raise BundleError(f"{options.bundle} has no sketch; make one: caan sketch {options.bundle} --data DIR")
    sketcher, scanner = Sketcher(retriever.backend, source), Scanner(None)
    items, vectors = sketcher.pooled(gallery), sketcher.pooled(queries)
    exact = retriever.score_matrix(gallery, queries).T
    sketched = retriever.sketch(gallery, measure=False)
    assert sketched.sketches is not None
    sketches, numbers = sketched.sketches.read(), sketcher.numbers(queries)
    assert numbers is not None

    def ours(query: NDArray[np.int16], n: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = scanner.best(sketches, query[None], n)[0][0]
        return found

    print(f"{describe_machine()}\n{len(gallery):,} images, {len(captions)} captions, D = {items.shape[1]}\n")
    own = Stage("caan, 64-byte sketches", 0.0, sketches.nbytes, {"": ours})
    rows = []
    with temporary_folder("rivals", "LanceDB's table") as folder:
        stages, missing = rival_stages(items, folder)
        for stage in (own, *stages):
            given: NDArray[Any] = numbers if stage is own else vectors
            for recall in options.recall:
                rows.append(_row(stage, reaching(stage, given, exact, recall), recall, retriever, sketched, captions))
    headers = [
        "first stage",
        "setting",
        "MB",
        "built, s",
        "recall",
        "n",
        "first stage, ms",
        "our whole search with n, ms",
    ]
    print(tabulate(rows, headers, disable_numparse=True, colalign=["left", "left", *["right"] * 6]))
    print("\n".join(f"not run: {line}" for line in missing))


def rival_stages(vectors: Vectors, folder: Path) -> tuple[list[Stage], list[str]]:
    """The stages of the libraries that are installed, and a line for each one that isn't."""
    stages: list[Stage] = []
    missing = []
    for name, make in (("faiss", faiss_stages), ("lancedb", lambda vectors: [lancedb_stage(vectors, folder)])):
        try:
            stages += make(vectors)
        except ImportError as error:
            missing.append(f"{name}: the package '{error.name}' is not installed; pip install --group rivals")
    return stages, missing


def _row(
    stage: Stage, reached: Reached | None, recall: float, retriever: Retriever, gallery: Gallery, captions: list[str]
) -> list[str]:
    """A row of the table; the exact scores of n candidates cost the same whoever found them."""
    row = [stage.name, "", f"{stage.bytes / 1e6:.1f}", f"{stage.build_seconds:.1f}", f"{recall:.0%}"]
    if reached is None:
        return [*row, "not reached", "", ""]
    search = partial(retriever.search, gallery=gallery, k=K, candidates=reached.candidates)
    scored = 1000 * float(np.median([seconds(partial(search, caption)) for caption in captions[:50]]))
    row[1] = reached.setting
    return [*row, f"{reached.candidates:,}", f"{reached.milliseconds:.2f}", f"{scored:.1f}"]


if __name__ == "__main__":
    main()
