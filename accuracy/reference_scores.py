"""The scores that a precision is compared with: PyTorch's in FP32, computed once per checkpoint and data set."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_file, cache_folder, open_regular, sha256_of
from ..bundle import GRAPHS, VOCABULARY, Bundle, graph_file
from ..errors import CaanWarning, CheckpointError, MissingError, OutputError
from ..runtime import Retriever
from ..runtime.choices import BackendName
from .workload import Workload

PYTORCH, OWN_FP32 = "PyTorch FP32", "the bundle's FP32 graphs in ONNX Runtime"
_KEPT = 16  # score matrices in the cache; the oldest go


def reference_scores(
    workload: Workload,
    bundle: Bundle,
    checkpoint: Path | None,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[NDArray[np.float32], str]:
    """(scores (images, captions), who computed them).

    PyTorch from the bundle's checkpoint. Where the checkpoint or PyTorch is not to be had, as on a machine that only
    builds engines, the bundle's own FP32 graphs, whose distance from PyTorch was checked at the export.
    Raises CheckpointError if a checkpoint was named and is not the bundle's.
    """
    try:
        source = checkpoint_of(bundle, checkpoint)
        return _cached(source, "torch", workload, sha256_of(source), progress), PYTORCH
    except (CheckpointError, MissingError):
        if checkpoint is not None:
            raise
    progress("the checkpoint or PyTorch is not at hand: the bundle's FP32 graphs are the reference")
    identity = "-".join(bundle.hash_of(name) for name in (VOCABULARY, *(graph_file(graph, "fp32") for graph in GRAPHS)))
    return _cached(bundle.folder, "onnxruntime", workload, identity, progress), OWN_FP32


def checkpoint_of(bundle: Bundle, named: Path | None) -> Path:
    """The checkpoint that a bundle was exported from: `named`, or where it was at the time of the export.

    Raises CheckpointError if it is not there, or is not the one that the bundle was exported from.
    """
    recorded: dict[str, Any] = bundle.manifest.get("checkpoint") or {}
    path = named or Path(os.path.normpath(bundle.folder.resolve() / str(recorded.get("file", "model.pt"))))
    if not path.is_file():
        raise CheckpointError(f"the bundle's checkpoint is no longer at {path}; name it with --checkpoint model.pt")
    if sha256_of(path) != recorded.get("sha256"):
        raise CheckpointError(f"{path} is not what {bundle.folder.name} was exported from; export it again")
    return path


def _cached(
    path: Path, backend: str, workload: Workload, identity: str, progress: Callable[[str], None]
) -> NDArray[np.float32]:
    folder = cache_folder("reference")
    key = hashlib.sha256(f"{backend} {identity} {workload.digest()}".encode()).hexdigest()[:40]
    file = folder / f"{key}.npz"
    shape = (len(workload.features), len(workload.captions))
    # A file that is damaged or of another time is no obstacle: its archive's checksums tell, and the scores are
    # computed again.
    with suppress(Exception), open_regular(file) as stored, np.load(stored, allow_pickle=False) as archive:
        scores: NDArray[np.float32] = archive["scores"]
        if scores.shape == shape and scores.dtype == np.float32:
            return scores
    retriever = Retriever.open(path, cast(BackendName, backend), device="cpu")
    progress(f"scoring {workload.description} in FP32 with {backend}: the reference, kept for the next time")
    scores = workload.scores(retriever)
    try:
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.savez(stream, scores=scores)
        for old in sorted(folder.glob("*.npz"), key=lambda f: f.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    except (OSError, OutputError) as error:
        warnings.warn(f"the reference scores can't be kept for the next time: {error}", CaanWarning, stacklevel=2)
    return scores
