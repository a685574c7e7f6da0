"""A graph is exported only if it is valid ONNX and ONNX Runtime computes with it what PyTorch computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from .._onnxruntime import cpu_session, onnxruntime
from ..bundle import CAPTIONS, IMAGES, REGIONS, WORDS
from ..errors import ExportError
from ..model.caan import CAAN
from .graphs import TRY_VERSIONS, GraphSpec, random_inputs

if TYPE_CHECKING:
    import onnxruntime as ort

MAX_ERROR = 1e-5

# None is the traced shape; one has single items, one more of everything than the trace.
_SHAPES = [
    {IMAGES: 1, REGIONS: 1, CAPTIONS: 1, WORDS: 2},
    {IMAGES: 2, REGIONS: 36, CAPTIONS: 5, WORDS: 14},
    {IMAGES: 5, REGIONS: 10, CAPTIONS: 9, WORDS: 33},
]


def validate_graph(spec: GraphSpec, graph: onnx.ModelProto, model: CAAN) -> float:
    """Return the largest error against PyTorch over random inputs of three shapes; padded rows don't count.

    The error is absolute where values are below 1 and relative to the largest value above.
    Raises ExportError if the ONNX checker refuses the graph, ONNX Runtime can't run it, or the error is above 1e-5.
    """
    onnxruntime("validating an export")
    try:
        onnx.checker.check_model(graph, full_check=True)
        session = cpu_session(graph.SerializeToString(), purpose="validating an export")
        worst = float(np.max([_error(spec, session, model, sizes) for sizes in _SHAPES]))
    except ExportError:
        raise
    except Exception as error:  # the checker and ONNX Runtime have their own, unrelated exception types
        raise ExportError(f"the exported {spec.name} graph failed its validation: {error}. {TRY_VERSIONS}") from error
    if not worst <= MAX_ERROR:  # also when it is NaN
        raise ExportError(
            f"the exported {spec.name} graph differs from PyTorch by {worst:.2g} (allowed: {MAX_ERROR:.0e}); no bundle"
            f" was written. {TRY_VERSIONS}"
        )
    return worst


def _error(spec: GraphSpec, session: ort.InferenceSession, model: CAAN, sizes: dict[str, int]) -> float:
    """The largest error of all outputs."""
    inputs = random_inputs(spec, model, sizes, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        computed = spec.compute(*inputs.values())
    expected = computed if isinstance(computed, tuple) else (computed,)
    found = session.run(list(spec.outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
    # A text encoder's padded rows are meaningless; whatever else is padded is 0 in both, or made from the same input.
    valid = None
    if spec.name == "text_encoder":
        valid = np.arange(sizes[WORDS]) < inputs["text_lengths"].numpy()[:, None]
    # A maximum of Python's would lose a NaN that is not the first
    return float(np.max([_difference(spec, f, e.numpy(), valid) for f, e in zip(found, expected, strict=True)]))


def _difference(
    spec: GraphSpec, found: NDArray[Any], expected: NDArray[Any], valid: NDArray[np.bool_] | None
) -> np.floating:
    if found.shape != expected.shape:
        raise ExportError(f"the exported {spec.name} graph gives {found.shape} where PyTorch gives {expected.shape}")
    if valid is not None:
        found, expected = found[valid], expected[valid]
    largest: np.floating = np.abs(found - expected).max() / max(1.0, np.abs(expected).max())
    return largest
