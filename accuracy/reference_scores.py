"""The reference scores for comparing precisions: PyTorch's in FP32, computed once per checkpoint and data set."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cache import cache_file, read_cached, write_cached
from .._files import sha256_of
from ..bundle import GRAPHS, SCAN_FAMILY, VOCABULARY, Bundle, graph_file
from ..errors import CheckpointError, MissingError, VocabularyNeeded
from ..runtime import Retriever
from ..runtime.choices import BackendName
from .workload import Workload

PYTORCH, OWN_FP32 = "PyTorch FP32", "the bundle's FP32 graphs in ONNX Runtime"
_KEPT = 16  # score matrices in the cache; the oldest are deleted


def reference_scores(
    workload: Workload,
    bundle: Bundle,
    checkpoint: Path | None,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[NDArray[np.float32], str]:
    """(scores (images, captions), name of what computed them).

    PyTorch runs the bundle's checkpoint. If the checkpoint or PyTorch is missing, as on a machine that only builds
    engines, the bundle's FP32 graphs are used; the export checked them against PyTorch.
    Raises CheckpointError if `checkpoint` is given and is not the bundle's.
    """
    try:
        source = checkpoint_of(bundle, checkpoint)
        return _cached(partial(_open, source, "torch"), "torch", workload, sha256_of(source), progress), PYTORCH
    except (CheckpointError, MissingError) as error:
        if checkpoint is not None:
            raise
        progress(f"{error}\nUntil then the bundle's FP32 graphs are the reference")
    identity = "-".join(bundle.hash_of(name) for name in (VOCABULARY, *(graph_file(graph, "fp32") for graph in GRAPHS)))
    opened = partial(_open, bundle.folder, "onnxruntime")
    return _cached(opened, "onnxruntime", workload, identity, progress), OWN_FP32


def scores_of(
    reference: Retriever, workload: Workload, progress: Callable[[str], None] = lambda message: None
) -> NDArray[np.float32]:
    """Scores (images, captions) float32 of an opened reference, PyTorch's backend, or from the cache."""
    return _cached(lambda: reference, "torch", workload, reference.backend.model.encoders["image"], progress)


def checkpoint_of(bundle: Bundle, named: Path | None) -> Path:
    """The checkpoint a bundle was exported from: `named`, or its path at the time of the export.

    Raises CheckpointError if it is missing, or neither the one the bundle was exported from nor one with the same
    content, and VocabularyNeeded if it holds no vocabulary.
    """
    recorded: dict[str, Any] = bundle.manifest.get("checkpoint") or {}
    path = named or Path(os.path.normpath(bundle.folder.resolve() / str(recorded.get("file", "model.pt"))))
    if not path.is_file():
        raise CheckpointError(f"the bundle's checkpoint is no longer at {path}; name it with --checkpoint model.pt")
    is_same = sha256_of(path) == recorded.get("sha256")
    if is_same and recorded.get("family") == SCAN_FAMILY:
        raise VocabularyNeeded(path)
    if not is_same and not _holds(path, recorded.get("content_sha256")):
        raise CheckpointError(f"{path} is not what {bundle.folder.name} was exported from; export it again")
    return path


def _open(path: Path, backend: BackendName) -> Retriever:
    return Retriever.open(path, backend, device="cpu")


def _holds(path: Path, content: object) -> bool:
    """Whether a checkpoint has this content: a converted one and its original are different files with the same."""
    if content is None:  # an older bundle
        return False
    from ..runtime.backends.pytorch import content_of  # PyTorch, which a machine for engines may lack

    try:
        return content_of(path) == content
    except VocabularyNeeded:
        raise
    except CheckpointError:
        return False


def _cached(
    opened: Callable[[], Retriever], backend: str, workload: Workload, identity: str, progress: Callable[[str], None]
) -> NDArray[np.float32]:
    file = cache_file("reference", f"{backend} {identity} {workload.digest()}", ".npz")
    shape = (len(workload.features), len(workload.captions))

    def read(content: bytes) -> NDArray[np.float32]:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:  # zip checksums detect damage
            scores: NDArray[np.float32] = archive["scores"]
        if scores.shape != shape or scores.dtype != np.float32:
            raise ValueError("it holds something else")
        return scores

    cached = read_cached(file, read)
    if cached is not None:
        return cached
    retriever = opened()
    progress(f"scoring {workload.description} in FP32 with {backend}: the reference, cached for next time")
    scores = workload.scores(retriever)
    content = io.BytesIO()
    np.savez(content, scores=scores)
    write_cached(file, content.getbuffer(), "the reference scores")
    with suppress(OSError):
        for old in sorted(file.parent.glob("*.npz"), key=lambda f: f.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    return scores
