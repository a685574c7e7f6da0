"""A bundle's scorer weights, w_v, w_u and λ (docs/model.md), for kernels that score without a graph."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from ...bundle import MANIFEST, SCORER_WEIGHTS, Bundle, graph_file
from ...errors import BundleError
from ...manifest import is_sealed
from .graph_constants import float_scalars

# The scorer graph's other scalars: the mask, the norms' squared epsilon, the squares' exponent.
_NOT_SCALE = {-1e4, float(np.float32(1e-12)), 2.0}
_LARGEST = float(np.finfo(np.float32).max)


def scorer_weights(bundle: Bundle) -> NDArray[np.float32]:
    """The rows w_v and w_u, (2, d) float32, C-contiguous.

    Raises BundleError for a bundle exported before this file existed, or if it does not hold such an array.
    """
    if SCORER_WEIGHTS not in bundle.manifest["files"]:
        raise BundleError(
            f"{bundle.folder} was exported before bundles held {SCORER_WEIGHTS}; export the checkpoint again:"
            f" caan-export model.pt -o {bundle.folder} --overwrite"
        )
    path = bundle.folder / SCORER_WEIGHTS
    try:
        weights = np.load(io.BytesIO(bundle.content(SCORER_WEIGHTS)), allow_pickle=False)
    except BundleError:
        raise
    except Exception as error:  # for a damaged header NumPy raises errors of many types
        raise BundleError(f"{path} can't be read as an array ({error}); export the checkpoint again") from error
    expected = (2, bundle.config["attention_dim"])
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float32 or weights.shape != expected:
        raise BundleError(f"{path} does not hold float32 {expected}; export the checkpoint again")
    if not np.isfinite(weights).all():
        raise BundleError(f"{path} holds NaN or infinity; export the checkpoint again")
    return np.ascontiguousarray(weights)


def attention_scale(bundle: Bundle) -> float:
    """λ, from the config.

    Raises BundleError if it is not a number within float32, or if, in a bundle older than manifest checksums, the
    scorer's graph multiplies by another value.
    """
    scale = bundle.config.get("attention_scale")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) <= _LARGEST:  # true for NaN
        raise BundleError(
            f"{bundle.folder / MANIFEST} has no valid 'config.attention_scale'; export the checkpoint again"
        )
    if not is_sealed(bundle.manifest) and not _is_of_graph(float(scale), bundle):
        raise BundleError(
            f"{bundle.folder / MANIFEST} does not fit its graphs: the scorer does not multiply by its"
            f" config.attention_scale, {scale}; copy the bundle again, or export the checkpoint again"
        )
    return float(scale)


def _is_of_graph(scale: float, bundle: Bundle) -> bool:
    """Whether λ is a constant of the FP32 scorer's graph; True if that can't be determined."""
    file = graph_file("scorer", "fp32")
    if file not in bundle.manifest["files"]:
        return True
    try:
        others = float_scalars(bundle.folder / file) - _NOT_SCALE
    except (OSError, ValueError):
        return True
    # The exporter omits a product with 1, and a product with 2 shares the squares' exponent.
    return float(np.float32(scale)) in (others or {1.0, 2.0})


def model_hashes(bundle: Bundle, precision: str) -> str:
    """Identifies the model's scorer in a kernel's fingerprint."""
    return f"{bundle.hash_of(SCORER_WEIGHTS)} {bundle.hash_of(graph_file('scorer', precision))}"
