"""Backend `tensorrt`: a bundle's engines on an NVIDIA GPU, of TensorRT or TensorRT for RTX.

A plan is a program for the GPU, and a version-compatible one contains CPU code too. Without `trust_engines`, only
engines built on this machine are run.

Experimental: tested with stand-ins, has run on no GPU yet.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ....bundle import CAPTIONS, GRAPHS, IMAGES, MANIFEST, REGIONS, VOCABULARY, WORDS, Bundle, plan_file
from ....data.vocabulary import Vocabulary
from ....engines.record import EngineRecord
from ....engines.targets import installed_module
from ....errors import BundleError, InputError
from ....sketch import sketch_of
from ..contract import GraphTiles, Layout, Model, Tile, Tiles
from ..device_cache import DeviceCache
from ..from_bundle import check_sizes, encoder_hashes, open_precision
from ..onnxruntime.fp32_graphs import Fp32Graphs
from ..pooled import PoolsByExplaining
from .choose_engine import choose_engine, this_machine
from .choose_profile import batch_limit, item_limits, tile_limits
from .cuda import Gpu
from .executor import Call, Executor, ExecutorPool, Resident
from .plans import Plan, load_plan

# Share of the device memory free when the first tile is cached. The rest is for other threads' executors.
_RESIDENT_SHARE = 0.5


class TensorRTBackend(PoolsByExplaining):
    """The three graphs as engines. Thread-safe: concurrent calls have separate streams and contexts."""

    name = "tensorrt"
    device = "cuda"
    layouts: Sequence[Layout | None] = (None,)
    process_bound = "a GPU"

    def __init__(self, bundle: Bundle, record: EngineRecord, trt: Any, gpu: Gpu) -> None:
        """Load the engine that `choose_engine` selected; trt: its target's module."""
        self.engine = record
        self.precision = record.precision
        vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
        self.fingerprint = f"{record.name} {gpu.capability} {bundle.hash_of(plan_file('scorer', record.name))}"
        gpu.enter()
        plans = {graph: load_plan(trt, record, bundle, graph, gpu.capability) for graph in GRAPHS}
        _check_fit(bundle, record, vocabulary, plans)
        self._profiles = {graph: plan.profiles for graph, plan in plans.items()}
        self.state_dtype = plans["scorer"].dtypes["image_states"]
        engine_limits, bundle_limits = item_limits(self._profiles), bundle.manifest["limits"]
        limits = {side: min(limit, bundle_limits[side]) for side, limit in engine_limits.items()}
        self.model = Model(
            bundle.config, limits, vocabulary, encoder_hashes(bundle, record.precision), sketch_of(bundle)
        )
        self.tiles: Tiles = GraphTiles(partial(tile_limits, self._profiles["scorer"]))
        self._residents: DeviceCache[Resident] = DeviceCache(lambda: int(gpu.free_bytes() * _RESIDENT_SHARE))
        self._pools = {
            graph: ExecutorPool(partial(Executor, gpu, plan, self._residents)) for graph, plan in plans.items()
        }
        self._fp32_graphs = Fp32Graphs(bundle)
        self._finalizer = weakref.finalize(self, _save_kernels, gpu, list(plans.values()))

    @classmethod
    def open(
        cls,
        path: Path,
        precision: str,
        device: str,
        threads: int | None,
        *,
        checked: bool = False,
        trust_engines: bool = False,
    ) -> TensorRTBackend:
        """Open the bundle's first engine of this precision that is usable here.

        threads: ignored; checked: only an engine that passed its check on a GPU; trust_engines: also one built
        elsewhere.
        Raises InputError for device `cpu`, BundleError, with the command that builds it, if the engine is missing,
        stale, or for another TensorRT or GPU; MissingError if this machine lacks a package or GPU.
        """
        if device == "cpu":
            raise InputError("the backend 'tensorrt' runs on device 'cuda'; on 'cpu' use backend 'onnxruntime'")

        def load(bundle: Bundle) -> TensorRTBackend:
            record = choose_engine(bundle, precision, this_machine, checked=checked, trust_engines=trust_engines)
            return cls(bundle, record, installed_module(record.target), Gpu.open())

        return open_precision(path, precision, load)

    def encode_images(self, features: NDArray[np.float32]) -> NDArray[np.floating]:
        limit = batch_limit(self._profiles["image_encoder"], IMAGES, REGIONS, features.shape[1])
        chunks = ({"features": features[i : i + limit]} for i in range(0, len(features), limit))
        return np.concatenate(list(self._run("image_encoder", chunks)))

    def encode_captions(self, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.floating]:
        limit = batch_limit(self._profiles["text_encoder"], CAPTIONS, WORDS, tokens.shape[1])
        chunks = (
            {"tokens": tokens[i : i + limit], "text_lengths": lengths[i : i + limit]}
            for i in range(0, len(tokens), limit)
        )
        return np.concatenate(list(self._run("text_encoder", chunks)))

    def score_tiles(self, tiles: Iterable[Tile], layout: Layout | None = None) -> Iterator[NDArray[np.float32]]:
        """As `Backend`. Raises InputError for a tile that no profile takes."""
        return self._run("scorer", (tile._asdict() for tile in tiles))

    def explain(self, tile: Tile) -> dict[str, NDArray[np.float32]]:
        """As `Backend`, in ONNX Runtime on the CPU."""
        return self._fp32_graphs.explain(tile)

    def expand_regions(self, regions: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `Backend`, in ONNX Runtime on the CPU."""
        return self._fp32_graphs.expand_regions(regions)

    def close(self) -> None:
        """Save compiled kernels and free device memory; memory used by running calls is freed when they end."""
        self._finalizer()
        for pool in self._pools.values():
            pool.close()
        self._residents.clear()

    def _run(self, graph: str, calls: Iterable[Call]) -> Iterator[NDArray[Any]]:
        with self._pools[graph].executor() as executor:
            yield from executor.run(calls)


def _check_fit(bundle: Bundle, record: EngineRecord, vocabulary: Vocabulary, plans: Mapping[str, Plan]) -> None:
    """Raise BundleError if the plans do not match the manifest's sizes, or each other's states."""
    check_sizes(bundle, vocabulary, {name: size for plan in plans.values() for name, size in plan.columns.items()})
    scorer = plans["scorer"]
    for tensor, encoder in (("image_states", "image_encoder"), ("text_states", "text_encoder")):
        source = plans[encoder]
        if (source.dtypes[tensor], source.columns[tensor]) != (scorer.dtypes[tensor], scorer.columns[tensor]):
            raise BundleError(
                f"{bundle.folder / MANIFEST}: the plans of {record.name} do not fit each other in {tensor}; build them"
                f" again: {record.rebuild(bundle)}"
            )


def _save_kernels(gpu: Gpu, plans: list[Plan]) -> None:
    # May run at process exit, without the device. Kernels that can't be saved are compiled again.
    with suppress(Exception):
        gpu.enter()
        for plan in plans:
            plan.save_kernels()
