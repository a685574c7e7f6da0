"""A bundle's FP32 graphs → the same graphs in FP16 or INT8, with types and results checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .._onnxruntime import cpu_session
from ..bundle import GRAPHS, SCALES, VOCABULARY, Bundle, change_bundle, graph_file, open_bundle, write_manifest
from ..errors import ExportError
from .audit import FP16, FP32, INT8, Audit, audit, check_types
from .fp16 import ISLANDS, island_nodes, match_nodes, to_fp16
from .int8 import quantizable, to_int8
from .rounding import with_explicit_rounding

# Default lengths for counting multiply-adds: the field's usual ones.
_REGIONS, _WORDS = 36, 14


@dataclass(frozen=True)
class PrecisionGraphs:
    """The three graphs in one precision, and the types their nodes compute in."""

    precision: str
    graphs: dict[str, onnx.ModelProto]
    audits: dict[str, Audit]
    kept_fp32: list[str]  # by --keep-fp32
    kept_fp16: list[str]  # products that are too inaccurate in INT8

    def entry(self) -> dict[str, Any]:
        """The manifest entry of this precision's graphs."""
        entry = {SCALES: "float32"} if self.precision == "int8" else {}
        return entry | {
            "islands": dict(ISLANDS),
            "kept_fp32": self.kept_fp32,
            "kept_fp16": self.kept_fp16,
            "nodes": {name: result.as_dict() for name, result in self.audits.items()},
        }

    def share_of_int8(self, graph: str) -> float:
        """Percentage of a graph's multiply-adds in INT8."""
        macs = self.audits[graph].macs
        return 100.0 * macs[INT8] / max(1, sum(macs.values()))


class PrecisionPass:
    """Converts a bundle's FP32 graphs to one precision, repeatedly if a search needs it.

    keep_fp32: names or regular expressions of nodes that stay FP32; ranges: graph → tensor → the |value| that maps to
    127, for INT8. Raises InputError for a pattern that matches no node.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        keep_fp32: Sequence[str] = (),
        ranges: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        self.bundle, self.precision, self.ranges = bundle, precision, ranges or {}
        self.sources = {name: onnx.load(bundle.graph(name, "fp32")) for name in GRAPHS}
        self.keep_fp32 = match_nodes(self.sources.values(), keep_fp32)

    def quantizable(self) -> list[str]:
        """All nodes that may be INT8."""
        nodes = [node for graph in self.sources.values() for node in quantizable(graph)]
        return [node for node in nodes if node not in self.keep_fp32]

    def graphs(self, int8_nodes: Collection[str] = ()) -> PrecisionGraphs:
        """The graphs, with these nodes in INT8. Raises ExportError, naming the node, if one has the wrong type."""
        graphs, audits = {}, {}
        # Shape inference can't tell an axis of size 1 from a broadcast one.
        regions = max(2, self.bundle.config.get("num_regions") or _REGIONS)
        for name, source in self.sources.items():
            if self.precision == "int8":
                graph = to_int8(source, self.ranges.get(name, {}), int8_nodes, self.keep_fp32)
            else:
                graph = to_fp16(source, self.keep_fp32)
            audits[name] = audit(graph, regions, _WORDS)
            check_types(name, audits[name], self._expected_types(name, source, int8_nodes), FP16)
            onnx.checker.check_model(graph, full_check=True)
            graphs[name] = graph
        kept = [node for node in self.quantizable() if self.precision == "int8" and node not in int8_nodes]
        return PrecisionGraphs(self.precision, graphs, audits, self.keep_fp32, kept)

    def _expected_types(self, name: str, source: onnx.ModelProto, int8_nodes: Collection[str]) -> dict[str, str]:
        """The expected type of every node that is not FP16."""
        computing = audit(source, _REGIONS, _WORDS).types
        wide = {node for members in island_nodes(source).values() for node in members} | set(self.keep_fp32)
        products = {node: INT8 for node in int8_nodes if node.startswith(f"{name}/")}
        return products | {node: FP32 for node in wide if node in computing}


def add_ungated(folder: Path, precision: str) -> Bundle:
    """Add a precision's graphs to the bundle `folder`, checked only on random inputs. Raises as `random_check`."""

    def add(copy: Path, manifest: dict[str, Any]) -> None:
        bundle = open_bundle(folder)
        converted = PrecisionPass(bundle, precision).graphs()
        for name, graph in converted.graphs.items():
            onnx.save(graph, copy / graph_file(name, precision))
        manifest["precisions"][precision] = {**converted.entry(), "checks": [random_check(bundle, converted)]}

    return change_bundle(folder, add)


def gate_bundle(bundle: Bundle, converted: PrecisionGraphs, folder: Path) -> Path:
    """A bundle in the new folder `folder` with this precision only and every rounding to FP16 explicit.

    An accuracy gate on a CPU runs these graphs instead of the originals; see rounding.py.
    """
    (folder / "onnx").mkdir(parents=True)
    (folder / VOCABULARY).write_bytes((bundle.folder / VOCABULARY).read_bytes())
    for name, graph in converted.graphs.items():
        onnx.save(with_explicit_rounding(graph), folder / graph_file(name, converted.precision))
    write_manifest(
        folder,
        {**bundle.manifest, "precisions": {converted.precision: converted.entry() | {"checks": []}}, "engines": {}},
    )
    return folder


def random_check(bundle: Bundle, converted: PrecisionGraphs) -> dict[str, Any]:
    """Compare the graphs with the FP32 ones on random inputs: the manifest's record, with the largest |Δ| per graph.

    This finds broken graphs, not poor retrieval. Raises ExportError for NaN or infinity.
    """
    errors = {}
    expected = _outputs({name: onnx.load(bundle.graph(name, "fp32")) for name in GRAPHS}, bundle)
    outputs = _outputs({name: with_explicit_rounding(graph) for name, graph in converted.graphs.items()}, bundle)
    for name in GRAPHS:
        difference = np.abs(outputs[name].astype(np.float64) - expected[name])
        if not np.isfinite(difference).all():
            raise ExportError(
                f"the {converted.precision} {name} graph gives NaN or infinity on random inputs; nothing was written."
                f" Keep nodes in FP32 (--keep-fp32 '{name}/.*' keeps the whole graph)"
            )
        errors[name] = float(difference.max())
    return {
        "what": f"{converted.precision} against FP32 in ONNX Runtime, largest difference",
        "data": "random inputs",
        "errors": errors,
        "summary": ", ".join(f"{name} {error:.1e}" for name, error in errors.items()),
    }


def _outputs(graphs: Mapping[str, onnx.ModelProto], bundle: Bundle) -> dict[str, NDArray[Any]]:
    """The graphs' outputs for fixed random features and tokens, without padded rows of the text encoder."""
    config, generator = bundle.config, np.random.default_rng(0)
    images, captions, regions, words = 2, 3, config.get("num_regions") or _REGIONS, _WORDS
    lengths = np.array([words, words // 2, 2])
    values: dict[str, NDArray[Any]] = {
        "features": generator.standard_normal((images, regions, config["region_dim"]), dtype=np.float32),
        "tokens": generator.integers(0, config["vocab_size"], (captions, words)),
        "image_lengths": np.array([regions, max(1, regions // 2)]),
        "text_lengths": lengths,
    }
    outputs = {}
    for name in GRAPHS:
        session = cpu_session(graphs[name].SerializeToString(), purpose="checking a precision")
        inputs = {i.name: values[i.name] for i in session.get_inputs()}
        (outputs[name],) = session.run(None, inputs)
        values[session.get_outputs()[0].name] = outputs[name]
    outputs["text_encoder"] = outputs["text_encoder"][np.arange(words) < lengths[:, None]]
    return outputs
