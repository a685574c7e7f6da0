"""A bundle's description as text, as wide as the terminal, at most 120 columns."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins
from tabulate import tabulate

from ..bundle import GRAPHS, SCORER_WEIGHTS, SIDE_GRAPHS, graph_file, plan_file
from ..calibration.sensitivity import NodeCost, cost_table
from ..engines.record import build_command
from ..errors import install
from ..export.describe import Description, Ends, Layer
from ..export.profiles import profile_table
from ..manifest import CalibrationRecord, CheckRecord, GraphNodes, Manifest, NodeCostRecord, PrecisionRecord
from .output import settings_text

if TYPE_CHECKING:
    from ..model.summary import CheckpointSummary

_LABEL = 13  # columns of a label and what follows it
_TYPES = ("INT8", "FP16", "FP32")


def summary_text(description: Description) -> str:
    """The whole bundle: a paragraph each for the model, files, graphs, every precision and every engine."""
    parts = [
        _model(description),
        *_settings(description.manifest),
        *_sketch(description.manifest),
        _files(description.manifest),
        _graphs(description.ends),
        *(_precision(name, record) for name, record in description.manifest.precisions.items()),
        *(_engine(description, name, entry) for name, entry in description.manifest.engines.items()),
    ]
    return "\n\n".join(parts)


def checkpoint_text(summary: CheckpointSummary) -> str:
    """A checkpoint: its family, sizes, and settings."""
    lines = [
        str(summary.file),
        labelled("family", summary.family),
        labelled("model", _pairs(summary.config)),
        labelled("content", summary.content_sha256 or "–"),
    ]
    return (
        "\n".join(lines)
        + "\n\nsettings\n"
        + _indented(settings_text(summary.settings, summary.metrics, None, _width() - 2))
    )


def layers_text(title: str, layers: Sequence[Layer]) -> str:
    """One line per node: name, operator, the type it computes in, and its first output."""
    rows = []
    for layer in layers:
        output = [layer.outputs[0].dtype, _shape(layer.outputs[0].axes)] if layer.outputs else ["–", ""]
        rows.append([layer.name, layer.op, layer.computes_in or "–", *output])
    headers = ["node", "operator", "in", "output", ""]
    table = _table(rows, headers, left=5)
    excess = max(map(len, table.splitlines())) - _width()
    if excess > 0:
        # Nodes inserted by passes have long names that say little; the shapes beside them matter more.
        room = max(len(row[0]) for row in rows) - excess
        table = _table([[_middle_out(name, room), *others] for name, *others in rows], headers, left=5)
    return f"{title}\n{table}"


def _model(description: Description) -> str:
    manifest, checkpoint = description.manifest, description.manifest.checkpoint
    rsum = checkpoint.metrics.get("rsum") if checkpoint and checkpoint.metrics else None
    trained = f" (rsum {rsum:.2f})" if isinstance(rsum, float | int) else ""
    tools = {"caan": manifest.caan or "?", **manifest.tools}
    lines = [
        str(description.bundle.folder),
        labelled("model", _pairs(description.bundle.config)),
        labelled("tokenizer", manifest.tokenizer),
        labelled("limits", f"{manifest.limits.regions} regions, {manifest.limits.words} words"),
        labelled("checkpoint", (checkpoint.file if checkpoint else "–") + trained),
        labelled("made by", f"{_pairs(tools)}; opset {'?' if manifest.opset is None else manifest.opset}"),
    ]
    return "\n".join(lines)


def _sketch(manifest: Manifest) -> list[str]:
    from .sketch import recall_lines

    sketch = manifest.sketch
    if sketch is None:
        return []
    lines = [f"{sketch.columns} bytes an item, {sketch.calibration} calibration items of {sketch.data} {sketch.split}"]
    return ["sketch\n" + _indented("\n".join([*lines, *recall_lines(to_builtins(sketch))]))]


def _settings(manifest: Manifest) -> list[str]:
    """Where each setting came from, and the rsum measured beside the checkpoint's own; nothing of older bundles."""
    checkpoint = manifest.checkpoint
    if checkpoint is None or not checkpoint.settings:
        return []
    fp32 = manifest.precisions.get("fp32")
    checks = [check for check in fp32.checks if check.metrics and check.data] if fp32 is not None else []
    rsum = checks[-1].metrics.get("rsum") if checks and checks[-1].metrics else None
    measured = f"measured {rsum:.2f} on {checks[-1].data}" if isinstance(rsum, int | float) else None
    return [
        "settings\n" + _indented(settings_text(checkpoint.settings, checkpoint.metrics or {}, measured, _width() - 2))
    ]


def _files(manifest: Manifest) -> str:
    sizes = {name: entry.size for name, entry in manifest.files.items()}
    total = sum(sizes.values())
    groups = {f"onnx {p}": [graph_file(graph, p) for graph in GRAPHS] for p in manifest.precisions}
    for engine in manifest.engines:
        groups[f"engine {engine}"] = [plan_file(graph, engine) for graph in GRAPHS]
    rows = []
    for label, files in groups.items():
        group_sizes = [sizes.pop(file) for file in files]
        rows.append([label, *map(size_of, group_sizes), size_of(sum(group_sizes))])
    rows += [[name, *[""] * len(GRAPHS), size_of(size)] for name, size in sizes.items()]
    rows.append(["all", *[""] * len(GRAPHS), size_of(total)])
    table = "files\n" + _table(rows, ["", *GRAPHS, "all"], left=1)
    if SCORER_WEIGHTS in manifest.files:
        return table
    advice = f"{SCORER_WEIGHTS}: the bundle is older than the backends native and triton; export the checkpoint again"
    return f"{table}\n{labelled('missing', advice)}"


def _graphs(ends: Mapping[str, Mapping[str, Ends]] | None) -> str:
    if ends is None:
        return "graphs\n" + labelled("not shown", f"inputs and outputs need onnx: {install('export')}")
    # (graph, direction, tensor, shape) → precision → dtype
    seen: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for graph in (*GRAPHS, *SIDE_GRAPHS):
        for precision, graphs in ends.items():
            if graph not in graphs:
                continue
            for direction, tensors in (("in", graphs[graph].inputs), ("out", graphs[graph].outputs)):
                for tensor in tensors:
                    seen.setdefault((graph, direction, tensor.name, _shape(tensor.axes)), {})[precision] = tensor.dtype
    rows, last = [], ""
    for (graph, *rest), dtypes in seen.items():
        rows.append([graph if graph != last else "", *rest, *(dtypes.get(p, "–") for p in ends)])
        last = graph
    return "graphs\n" + _table(rows, ["", "", "tensor", "shape", *ends], left=4 + len(ends))


def _precision(name: str, record: PrecisionRecord) -> str:
    lines = [f"precision {name}: {record.status}" if record.status else f"precision {name}", *_checks(record.checks)]
    if record.calibration:
        lines.append(labelled("calibration", _calibration(record.calibration)))
    for kept, label in ((record.kept_fp16, "not INT8"), (record.kept_fp32, "kept FP32")):
        lines += [labelled(label, ", ".join(kept))] if kept else []
    for type_ in _TYPES:
        members = {graph: of_graph.nodes.get(type_, []) for graph, of_graph in record.nodes.items()}
        listed = [f"{graph}: {_shortened(graph, own)}" for graph, own in members.items() if own]
        if listed and type_.lower() != name:
            lines.append(labelled(f"in {type_}", "\n".join(listed)))
    lines += _macs(record.nodes)
    if record.sensitivity:
        lines += ["", _indented(cost_table(list(map(_cost, record.sensitivity))))]
    return "\n".join(lines)


def _cost(record: NodeCostRecord) -> NodeCost:
    delta, mean, largest = (
        math.inf if value is None else value for value in (record.delta_rsum, record.mean_abs, record.max_abs)
    )
    return NodeCost(record.node, delta, mean, largest, record.rank_flips)


def _calibration(record: CalibrationRecord) -> str:
    return (
        f"{record.method}, on {record.data} {record.split}: {record.pairs:,} pairs of"
        f" {record.images:,} images and {record.captions:,} captions, seed {record.seed}"
    )


def _macs(nodes: Mapping[str, GraphNodes]) -> list[str]:
    rows = []
    for graph, of_graph in nodes.items():
        macs = of_graph.macs
        total = sum(macs.values())
        rows.append([graph, f"{total / 1e6:.2f} M", *(_share(macs.get(type_, 0), total) for type_ in _TYPES)])
    return ["", _table(rows, ["multiply-adds", "", *_TYPES], left=1)] if rows else []


def _engine(description: Description, name: str, entry: Mapping[str, Any]) -> str:
    capabilities = ", ".join(entry["compute_capabilities"])
    default = "compute capability 8.0 and newer" if entry["target"] == "tensorrt-rtx" else "the GPU that built it"
    gpus = f"compute capability {capabilities}" if capabilities else default
    stale, precision = description.stale[name], entry["precision"]
    source = f"✓ the {precision} graphs of this bundle"
    if stale:
        command = f"{build_command(description.bundle, precision)} --target {entry['target']}"
        source = f"✗ stale: the {precision} {_and(stale)} changed since; build again:\n{command}"
    lines = [
        f"engine {name}",
        labelled("target", f"{entry['target']} {entry['version']}, {gpus}"),
        labelled("options", ", ".join(_option(key, value) for key, value in entry["options"].items() if value)),
        labelled("built from", source),
        *_checks(description.checks[name]),
    ]
    lines += [labelled("run", f"✗ {entry['run']}")] if entry.get("run") else []
    return "\n".join([*lines, "", _indented(profile_table(description.profiles[name]))])


def _checks(records: Sequence[CheckRecord]) -> list[str]:
    return [labelled("check", _check(record)) for record in records]


def _check(record: CheckRecord) -> str:
    mark = "" if record.passed is None else "✓ " if record.passed else "✗ "
    errors = ", ".join(f"{name} {error:.1e}" for name, error in record.errors.items())
    result = errors if record.summary is None else record.summary
    where = ", ".join(filter(None, (record.what, record.data, record.device)))
    return f"{mark}{result}\n{where}"


def _width() -> int:
    """The terminal's width, or 100 without one; at most 120, since longer lines are hard to read."""
    return max(60, min(shutil.get_terminal_size((100, 24)).columns, 120))


def labelled(label: str, text: str) -> str:
    """A label and its text, wrapped beside it."""
    columns = _width() - _LABEL - 2
    lines = []
    for part in text.split("\n"):
        unbroken = part.replace(" %", "\N{NO-BREAK SPACE}%")
        lines += [
            line.replace("\N{NO-BREAK SPACE}", " ") for line in textwrap.wrap(unbroken, columns, break_on_hyphens=False)
        ]
    first, *rest = lines or ["–"]
    return "\n".join([f"  {label:<{_LABEL}}{first}", *(" " * (_LABEL + 2) + line for line in rest)])


def _table(rows: Sequence[Sequence[str]], headers: Sequence[str], left: int) -> str:
    """A table with the first `left` columns left-aligned, the others right-aligned."""
    sides = ["left" if column < left else "right" for column in range(len(headers))]
    return _indented(tabulate(rows, headers, disable_numparse=True, colalign=sides if rows else None))


def _indented(table: str) -> str:
    return "\n".join(f"  {line}" for line in table.splitlines())


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def size_of(size: int) -> str:
    if size >= 2**20:
        return f"{size / 2**20:.1f} MiB"
    return f"{size / 1000:.1f} kB" if size >= 1000 else f"{size} B"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _option(name: str, value: Any) -> str:
    """As "optimization level 3" or "workspace 512 MiB"; for a switch just its name."""
    words = name.removesuffix("_mib").replace("_", " ")
    if value is True:
        return words
    return f"{words} {value} MiB" if name.endswith("_mib") else f"{words} {value}"


def _shape(axes: Iterable[int | str | None]) -> str:
    return " × ".join("?" if axis is None else str(axis) for axis in axes) or "one number"


def _share(part: int, whole: int) -> str:
    if not part:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 0.1 else "<0.1 %"


def _middle_out(name: str, columns: int) -> str:
    if len(name) <= columns:
        return name
    half = max(1, (columns - 1) // 2)
    return f"{name[:half]}…{name[-half:]}"


def _shortened(graph: str, nodes: Iterable[str]) -> str:
    """Node names without the graph's; three or more with the same prefix as "norm_A_* (5)"."""
    families: dict[str, list[str]] = {}
    for node in nodes:
        name = node.removeprefix(f"{graph}/")
        families.setdefault(name.rpartition("_")[0], []).append(name)
    shown = [[f"{start}_* ({len(names)})"] if start and len(names) > 2 else names for start, names in families.items()]
    return ", ".join(name for names in shown for name in names)
