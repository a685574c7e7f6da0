"""Two-stage search: the best sketches first, then the exact scores of those."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, CaanWarning, DataError, InputError
from ..galleries.gallery import Gallery
from ..hits import EXACT, Shortlist
from .curve import choose, recall_with
from .kernels import Scanner
from .sketcher import Sketcher

# Reading ahead pays off for states that are not in the page cache; asking costs a microsecond an item.
_PAGE = mmap.PAGESIZE


def resolve(gallery: Gallery, k: int, recall: Any, candidates: Any, stacklevel: int = 4) -> Shortlist:
    """How many candidates a search for k hits scores exactly; None: all.

    Raises InputError for a recall outside 0 to 1, fewer candidates than k, or both; DataError for a gallery without
    sketches. CaanWarning if the recall can't be promised, so that the search is exact.
    """
    if recall is None and candidates is None:
        return EXACT
    if recall is not None and candidates is not None:
        raise InputError("give recall or candidates, not both")
    live = len(gallery.live)
    if candidates is not None:
        if isinstance(candidates, bool) or not isinstance(candidates, int | np.integer) or candidates < k:
            raise InputError(f"candidates must be k or more: {candidates!r:.40} is not, k is {k}")
        _check(gallery)
        is_all = candidates >= live
        return EXACT if is_all else Shortlist(int(candidates), _known(gallery, k, int(candidates)))
    is_number = isinstance(recall, int | float | np.integer | np.floating) and not isinstance(recall, bool)
    if not is_number or not 0 < recall <= 1:
        raise InputError(f"recall is {recall!r:.40}; ask for more than 0, at most 1")
    if recall == 1:
        return EXACT
    _check(gallery)
    assert gallery.sketches is not None
    chosen = choose(gallery.sketches.curve, live, k, float(recall))
    if chosen.problem:
        warnings.warn(chosen.problem.replace("GALLERY", name_of(gallery)), CaanWarning, stacklevel=stacklevel)
    return chosen


def best_sketches(
    sketcher: Sketcher, scanner: Scanner, queries: Gallery, searched: Gallery, candidates: int
) -> NDArray[np.int64] | None:
    """Increasing indices (Q, n) of the best candidates for each live query; None if a query's states are not finite.

    Raises BundleError for sketches of another model.
    """
    assert searched.sketches is not None
    if searched.sketches.model != sketcher.identity or searched.sketches.columns != sketcher.columns:
        name = name_of(searched)
        raise BundleError(
            f"the sketches of {name} were made with another model or sketch; make them again: caan sketch {name}"
        )
    numbers = sketcher.numbers(queries)
    if numbers is None:
        return None
    rows = searched.sketches.read()[: len(searched)]
    indices, _ = scanner.best(rows, numbers, candidates, _skipped(searched))
    return np.sort(indices, axis=1)


def read_ahead(gallery: Gallery, items: NDArray[np.int64]) -> None:
    """Ask the system to read these items' states, scattered in a mapped file, before they are used one by one."""
    states: Any = gallery.states
    while states is not None and not isinstance(states, mmap.mmap):
        states = getattr(states, "_mmap", None) or getattr(states, "base", None)
    if states is None or not hasattr(states, "madvise"):
        return
    row = gallery.states.strides[0]
    starts = gallery.offsets[items] * row // _PAGE * _PAGE
    ends = gallery.offsets[items + 1] * row
    for start, end in _joined(starts.tolist(), ends.tolist()):
        states.madvise(mmap.MADV_WILLNEED, start, min(end, len(states)) - start)


def _joined(starts: list[int], ends: list[int]) -> Iterator[tuple[int, int]]:
    """Increasing ranges, those that touch as one."""
    first, last = starts[0], ends[0]
    for start, end in zip(starts[1:], ends[1:], strict=True):
        if start > last:
            yield first, last
            first = start
        last = end
    yield first, last


def name_of(gallery: Gallery) -> str:
    """How messages name a gallery."""
    return "the gallery" if gallery.origin is None else str(gallery.origin.folder)


def _skipped(searched: Gallery) -> NDArray[np.bool_] | None:
    """Which items a scan leaves out: deleted ones, and those not in the view."""
    if searched.chosen is None:
        return searched.deleted
    skipped = np.ones(len(searched), np.bool_)
    skipped[searched.chosen] = False
    return skipped


def _check(gallery: Gallery) -> None:
    if gallery.sketches is None:
        name = name_of(gallery)
        raise DataError(
            f"{name} has no sketches, so it can't be searched by recall or candidates; add them: caan sketch {name}"
        )


def _known(gallery: Gallery, k: int, candidates: int) -> Any:
    assert gallery.sketches is not None
    return recall_with(gallery.sketches.curve, len(gallery.live), k, candidates)
