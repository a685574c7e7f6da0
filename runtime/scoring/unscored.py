"""Pairs whose score is NaN or infinite, from NaN in states or an overflow. They are reported, never ranked."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from ...errors import CaanWarning, DataError
from ..galleries.gallery import Gallery
from ..inputs import Tokens
from .tiles import Scored

_SHOWN = 3


class Unscored:
    """Counts pairs whose score is NaN or infinite in a stream of scores."""

    def __init__(self, images: Gallery, texts: Gallery | Tokens) -> None:
        self._sides = {"image": images, "caption": texts}
        sizes = {"image": len(images), "caption": len(texts) if isinstance(texts, Gallery) else len(texts[1])}
        self._pairs = {side: np.zeros(size, np.int64) for side, size in sizes.items()}  # unscored pairs per item

    def note(self, scored: Scored) -> NDArray[np.float32]:
        """Count a block's unscored pairs; returns its scores, with NaN for each of them."""
        has_score = np.isfinite(scored.scores)
        if has_score.all():
            return scored.scores
        self._pairs["image"][scored.images] += (~has_score).sum(axis=1)
        self._pairs["caption"][scored.captions] += (~has_score).sum(axis=0)
        return np.where(has_score, scored.scores, np.float32(np.nan))

    def check_hits(self, queries: str) -> None:
        """After a search: raise DataError, naming it, for a query without a score for any item.

        CaanWarning, naming them, for items left out. queries: "image" or "caption".
        """
        failed = self._without_any(queries)
        if len(failed):
            name = self._name(queries, int(failed[0]))
            raise DataError(
                f"{name} can't be searched with: NaN or infinity instead of a score with every item; encode again, or"
                " export again"
            )
        items = "caption" if queries == "image" else "image"
        self._warn([self._names(items, np.flatnonzero(self._pairs[items]))], "left out of the hits")

    def warn_of_matrix(self) -> None:
        """After a score matrix: CaanWarning, naming them, for images and captions with missing scores."""
        names = []
        for side, other in (("image", "caption"), ("caption", "image")):
            # An item without any score is not blamed on every item of the other side.
            blamed = np.flatnonzero(self._pairs[side] > len(self._without_any(other)))
            names.append(self._names(side, blamed))
        if not any(names):  # no item of either side has a score
            names = [self._names("image", self._without_any("image"))]
        self._warn(names, "it stays in the matrix")

    def _without_any(self, side: str) -> NDArray[np.int64]:
        """Items without a score for any item of the other side."""
        others = self._sides["caption" if side == "image" else "image"]
        live = len(others.live) if isinstance(others, Gallery) else len(others[1])
        return np.flatnonzero(self._pairs[side] == live) if live else np.zeros(0, np.int64)

    def _warn(self, names: list[str], what: str) -> None:
        if any(names):
            shown = " and ".join(filter(None, names))
            message = f"NaN or infinity instead of a score: {shown}; {what}; encode again, or export again"
            warnings.warn(message, CaanWarning, stacklevel=5)

    def _names(self, side: str, numbers: NDArray[np.int64]) -> str:
        """ "image 3 (a.jpg)", "5 captions (caption 0, caption 2, caption 3, …)", or "" for none."""
        if len(numbers) < 2:
            return "".join(self._name(side, int(number)) for number in numbers)
        shown = ", ".join(self._name(side, int(number)) for number in numbers[:_SHOWN])
        return f"{len(numbers)} {side}s ({shown}{', …' if len(numbers) > _SHOWN else ''})"

    def _name(self, side: str, number: int) -> str:
        items = self._sides[side]
        ids = items.ids if isinstance(items, Gallery) else None
        return f"{side} {number}" + (f" ({ids[number][:80]})" if ids is not None else "")
