"""The gate of a gallery's bfloat16 or int8 states: what they change in retrieval, against the encoder's own states."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._files import temporary_folder
from ..errors import GateError, UnknownWordWarning
from ..metrics import top10_overlap
from ..runtime import Retriever
from ..runtime.encoding import as_stored
from ..runtime.galleries.description import Accuracy, Kind
from ..runtime.galleries.rows import Dtype
from .gate import AccuracyGate, Limits, limits_text
from .workload import Workload

LIMITS = Limits(delta_rsum=0.5)
LEAST_KEPT = 98.0  # percent of the ten best items, in the worse direction


def gate_states(
    retriever: Retriever,
    workload: Workload,
    kind: Kind,
    dtype: Dtype,
    *,
    compact: bool,
    keep_failed: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Accuracy:
    """Score a data set with its images' or captions' states as a gallery of this kind and dtype would store them.

    The queries' states are the encoder's own, as in a search. Returns the gallery's record: |Δ rsum| must be at most
    0.5, and in both directions 98 % of each query's ten best items must be kept. Raises GateError if they are not,
    unless `keep_failed`.
    """
    progress(f"scoring {workload.description} with {dtype} states and with the encoder's own")
    with warnings.catch_warnings(), temporary_folder("states", "the gate's states") as folder:
        warnings.simplefilter("ignore", UnknownWordWarning)
        images = retriever.encode_images(workload.features, workload.lengths, folder=folder, progress=True)
        if kind == "image":
            stored = as_stored(retriever.backend, images, dtype, compact=compact)
            reference = retriever.score_matrix(images, workload.captions, progress=True)
            scores = retriever.score_matrix(stored, workload.captions, progress=True)
        else:
            texts = retriever.encode_captions(workload.captions, folder=folder, progress=True)
            stored = as_stored(retriever.backend, texts, dtype, compact=compact)
            reference = retriever.score_matrix(images, texts, progress=True)
            scores = retriever.score_matrix(images, stored, progress=True)
    accuracy = compared(scores, reference, workload, f"{dtype} states{', compact,' if compact else ''}")
    if accuracy.status == "failed" and not keep_failed:
        check = accuracy.check
        assert check is not None
        raise GateError(
            f"{dtype} states miss their accuracy gate on {check['data']}: {check['summary']} (allowed:"
            f" {limits_text(check)}); nothing was written. Keep float16 states, or add --keep-failed"
        )
    return accuracy


def compared(scores: NDArray[np.float32], reference: NDArray[np.float32], workload: Workload, what: str) -> Accuracy:
    """The record of scores (images, captions) against the reference's of the same shape. `what`: the states' form."""
    check = AccuracyGate(workload, reference, "the encoder's own", LIMITS).compare(scores, what)
    if "allowed" in check:  # every score is finite
        by_image, by_text = top10_overlap(scores, reference), top10_overlap(scores.T, reference.T)
        check["top10_kept"] = {"image_to_text": by_image, "text_to_image": by_text}
        check["allowed"]["top10_kept"] = LEAST_KEPT
        check["passed"] = check["passed"] and min(by_image, by_text) >= LEAST_KEPT
        check["summary"] = f"text to image top-10 kept {by_text:.1f} %, {check['summary']}"
    return Accuracy("passed" if check["passed"] else "failed", check)
