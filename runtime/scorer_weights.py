"""What a kernel needs of a bundle to score states without a graph: w_v, w_u and λ (docs/model.md)."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from ..bundle import MANIFEST, SCORER_WEIGHTS, Bundle, graph_file
from ..errors import BundleError

_LARGEST = float(np.finfo(np.float32).max)


def scorer_weights(bundle: Bundle) -> NDArray[np.float32]:
    """The rows w_v and w_u, (2, d) float32, C-contiguous.

    Raises BundleError for a bundle that was exported before there was such a file, or whose file is no such array.
    """
    if SCORER_WEIGHTS not in bundle.manifest["files"]:
        raise BundleError(
            f"{bundle.folder} was exported before bundles held {SCORER_WEIGHTS}; export the checkpoint again:"
            f" caan-export model.pt -o {bundle.folder} --overwrite"
        )
    path = bundle.folder / SCORER_WEIGHTS
    try:
        weights = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
    except Exception as error:  # of a damaged header NumPy raises whatever its parser met
        raise BundleError(f"{path} can't be read as an array ({error}); export the checkpoint again") from error
    expected = (2, bundle.config["attention_dim"])
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float32 or weights.shape != expected:
        raise BundleError(f"{path} does not hold float32 {expected}; export the checkpoint again")
    if not np.isfinite(weights).all():
        raise BundleError(f"{path} holds NaN or infinity; export the checkpoint again")
    return np.ascontiguousarray(weights)


def attention_scale(bundle: Bundle) -> float:
    """λ, as the config says. Raises BundleError if it is not a number that float32 holds."""
    scale = bundle.config.get("attention_scale")
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not abs(scale) <= _LARGEST:  # false of NaN
        raise BundleError(
            f"{bundle.folder / MANIFEST} has no valid 'config.attention_scale'; export the checkpoint again"
        )
    return float(scale)


def model_hashes(bundle: Bundle, precision: str) -> str:
    """What tells one model's scores from another's, for a kernel's fingerprint."""
    return f"{bundle.hash_of(SCORER_WEIGHTS)} {bundle.hash_of(graph_file('scorer', precision))}"
