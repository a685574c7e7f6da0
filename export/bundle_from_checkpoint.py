"""Checkpoint → bundle: trace, validate, write."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .. import __version__
from .._files import atomic_folder, check_target, sha256_of
from .._text import json_text
from ..bundle import (
    MAX_REGIONS,
    MAX_WORDS,
    SCAN_FAMILY,
    SCORER_WEIGHTS,
    VOCABULARY,
    Bundle,
    graph_file,
    open_bundle,
    write_manifest,
)
from ..model.checkpoint import Checkpoint
from ..model.settings import Setting
from .graphs import OPSET, export_graphs
from .validate import MAX_ERROR, validate_graph

# Runs the finished bundle on a data set before it is moved into place. Raises if accuracy is insufficient, else returns
# the manifest's record.
Gate = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class ExportReport:
    """What was written, and each graph's largest error against PyTorch."""

    bundle: Bundle
    errors: dict[str, float]
    gate: dict[str, Any] | None


def export_checkpoint(
    checkpoint: Checkpoint,
    source: Path,
    target: Path,
    *,
    overwrite: bool = False,
    gate: Gate | None = None,
    stored: Path | None = None,
    settings: Sequence[Setting] = (),
    progress: Callable[[str], None] = lambda message: None,
) -> ExportReport:
    """Write the bundle `target` from a checkpoint that was loaded from the file `source`.

    stored: where the content of `source` is while it is still being written. settings: those of the data, for the
    manifest, beside the checkpoint's.

    Raises ExportError if a graph fails validation, GateError from `gate`, OutputError if the bundle can't be written.
    On any error no new bundle is left behind and an old one is kept.
    """
    check_target(target, overwrite=overwrite, kind="bundle")
    errors: dict[str, float] = {}
    with atomic_folder(target, overwrite=overwrite, kind="bundle") as folder:
        (folder / "onnx").mkdir()
        progress("exporting the graphs")
        for spec, graph in export_graphs(checkpoint.model):
            errors[spec.name] = validate_graph(spec, graph, checkpoint.model)
            onnx.save(graph, folder / graph_file(spec.name, "fp32"))
            progress(f"exported  {spec.name}: differs from PyTorch by {errors[spec.name]:.1e} at most")
        scorer = checkpoint.model.scorer
        weights = [w.detach().cpu().float().numpy() for w in (scorer.w_v, scorer.w_u)]
        np.save(folder / SCORER_WEIGHTS, np.stack(weights))
        vocabulary = json_text(checkpoint.vocabulary.as_dict(), indent=None)
        (folder / VOCABULARY).write_text(vocabulary + "\n", encoding="ascii")
        manifest = _manifest(checkpoint, source, target, errors)
        if checkpoint.is_converted and stored in (None, source):
            manifest["checkpoint"]["family"] = SCAN_FAMILY
        manifest["checkpoint"] |= {
            "sha256": sha256_of(stored or source),
            "settings": [setting.as_dict() for setting in (*checkpoint.settings, *settings)],
        }
        write_manifest(folder, manifest)
        verdict = None
        if gate is not None:
            verdict = gate(folder)
            manifest["precisions"]["fp32"]["checks"].append(verdict)
            write_manifest(folder, manifest)
    return ExportReport(open_bundle(target), errors, verdict)


def _manifest(checkpoint: Checkpoint, source: Path, target: Path, errors: dict[str, float]) -> dict[str, Any]:
    check = {
        "what": "ONNX Runtime against PyTorch, largest error over three batch shapes",
        "data": "random inputs, unequal lengths",
        "device": f"CPU ({platform.machine()})",
        "errors": errors,
        "allowed": MAX_ERROR,
    }
    return {
        "caan": __version__,
        "config": checkpoint.model.config.as_dict(),
        "tokenizer": checkpoint.vocabulary.tokenizer,
        "opset": OPSET,
        "limits": {"regions": MAX_REGIONS, "words": MAX_WORDS},
        "tools": {name: version(name) for name in ("torch", "onnx", "onnxscript", "numpy")},
        # For caan-bench, which compares with PyTorch. The runtime never opens it.
        "checkpoint": {
            "file": os.path.relpath(source.resolve(), target.resolve()),
            "metrics": checkpoint.metrics,
            "content_sha256": checkpoint.digest(),
        },
        "precisions": {"fp32": {"checks": [check]}},
    }
