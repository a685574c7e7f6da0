"""A gallery's states as the scorer takes them: half precision widened, a compact gallery's columns recomputed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .backends.contract import Backend
from .casting import convert
from .galleries.gallery import Gallery


def gather_states(
    backend: Backend, gallery: Gallery, items: NDArray[np.int64]
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """States of some items in `backend.state_dtype`, padded to the longest (n, L, S), and their lengths (n,).

    A view if the gallery holds exactly that, so that the backend can find it in its cache.
    """
    states, lengths = gallery.gather(items)
    if gallery.compact:
        states = backend.expand_regions(convert(states, np.dtype(np.float32)))
    return convert(states, backend.state_dtype), lengths
