"""A gallery's states as the scorer takes them: small types widened, a compact gallery's columns recomputed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..bundle import state_matrices
from .backends.contract import Backend
from .casting import convert
from .galleries.description import Kind
from .galleries.gallery import Gallery
from .galleries.rows import SMALL_DTYPES, decoded


def gather_states(
    backend: Backend, gallery: Gallery, items: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """States of some items in `backend.state_dtype`, padded to the longest (n, L, S), and their lengths (n,).

    A view if the gallery holds exactly that, so that the backend can find it in its cache.
    """
    states, lengths = gallery.gather(items)
    if gallery.dtype in SMALL_DTYPES:
        states = decoded(states, matrix_widths(backend, gallery.kind, compact=gallery.compact))
    if gallery.compact:
        states = backend.expand_regions(convert(states, np.dtype(np.float32)))
    return convert(states, backend.state_dtype), lengths


def matrix_widths(backend: Backend, kind: Kind, *, compact: bool) -> tuple[int, ...]:
    """Columns of each matrix that a row of the model's states holds, or a row of a compact gallery."""
    widths = state_matrices(backend.model.config)[kind]
    return widths[:1] if compact else widths
