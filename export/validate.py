"""Export validation: a graph must be valid ONNX, and ONNX Runtime's results must equal PyTorch's."""

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

# None equals the traced shape; one has single items, one is larger on every axis.
_SHAPES = [
    {IMAGES: 1, REGIONS: 1, CAPTIONS: 1, WORDS: 2},
    {IMAGES: 2, REGIONS: 36, CAPTIONS: 5, WORDS: 14},
    {IMAGES: 5, REGIONS: 10, CAPTIONS: 9, WORDS: 33},
]


def validate_graph(spec: GraphSpec, graph: onnx.ModelProto, model: CAAN) -> float:
    """Return the largest error against PyTorch over random inputs of three shapes, ignoring padded rows.

    The error is absolute for values up to 1, else relative to the largest value. Raises ExportError if the ONNX checker
    refuses the graph, ONNX Runtime can't run it, or the error is above 1e-5.
    """
    onnxruntime("validating an export")
    try:
        onnx.checker.check_model(graph, full_check=True)
        session = cpu_session(graph.SerializeToString(), purpose="validating an export")
        worst = float(np.max([_error(spec, session, model, sizes) for sizes in _SHAPES]))
    except ExportError:
        raise
    except Exception as error:  # the checker and ONNX Runtime share no exception type
        raise ExportError(f"the exported {spec.name} graph failed its validation: {error}. {TRY_VERSIONS}") from error
    if not worst <= MAX_ERROR:  # also catches NaN
        raise ExportError(
            f"the exported {spec.name} graph differs from PyTorch by {worst:.2g} (allowed: {MAX_ERROR:.0e}); no bundle"
            f" was written. {TRY_VERSIONS}"
        )
    return worst


def _error(spec: GraphSpec, session: ort.InferenceSession, model: CAAN, sizes: dict[str, int]) -> float:
    """The largest error over all outputs."""
    inputs = random_inputs(spec, model, sizes, torch.Generator().manual_seed(1))
    with torch.inference_mode():
        computed = spec.compute(*inputs.values())
    expected = computed if isinstance(computed, tuple) else (computed,)
    outputs = session.run(list(spec.outputs), {name: tensor.numpy() for name, tensor in inputs.items()})
    # The text encoder's padded rows are meaningless; other padding is 0 in both, or computed from the same input.
    valid = None
    if spec.name == "text_encoder":
        valid = np.arange(sizes[WORDS]) < inputs["text_lengths"].numpy()[:, None]
    # Python's max would lose a NaN that is not first.
    return float(np.max([_difference(spec, o, e.numpy(), valid) for o, e in zip(outputs, expected, strict=True)]))


def _difference(
    spec: GraphSpec, output: NDArray[Any], expected: NDArray[Any], valid: NDArray[np.bool_] | None
) -> np.floating:
    if output.shape != expected.shape:
        raise ExportError(f"the exported {spec.name} graph gives {output.shape} where PyTorch gives {expected.shape}")
    if valid is not None:
        output, expected = output[valid], expected[valid]
    largest: np.floating = np.abs(output - expected).max() / max(1.0, np.abs(expected).max())
    return largest
