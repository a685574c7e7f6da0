"""The best items of many queries from a stream of scores, without a queries × items matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NO_ITEM = np.iinfo(np.int64).max  # fills empty places; loses every tie


class TopK:
    """The k best items of each query among those seen so far. Equal scores rank by the item's index.

    scores (queries, k) float32, best first; items (queries, k) int64; NO_ITEM with score -inf where fewer than k items
    had a score. NaN counts as no score, since it can't be ordered. The result does not depend on the order or the
    blocks in which scores arrive.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.scores: NDArray[np.float32] = np.full((queries, k), -np.inf, np.float32)
        self.items: NDArray[np.int64] = np.full((queries, k), NO_ITEM, np.int64)

    def add(self, queries: NDArray[np.int64], items: NDArray[np.int64], scores: NDArray[np.float32]) -> None:
        """Add a block of scores (q, n) for queries (q,) and items (n,), each at most once."""
        is_nan = np.isnan(scores)
        block_items = np.broadcast_to(items, scores.shape)
        if is_nan.any():
            block_items = np.where(is_nan, NO_ITEM, block_items)
            scores = np.where(is_nan, np.float32(-np.inf), scores)
        # After the first few blocks, most contain nothing better.
        better = scores.max(axis=1) >= self.scores[queries, -1]
        if not better.any():
            return
        rows, block = queries[better], scores[better]
        every_score = np.concatenate([self.scores[rows], block], axis=1)  # (q, k + n)
        every_item = np.concatenate([self.items[rows], block_items[better]], axis=1)
        best = np.lexsort((every_item, -every_score), axis=1)[:, : self.scores.shape[1]]
        self.scores[rows] = np.take_along_axis(every_score, best, axis=1)
        self.items[rows] = np.take_along_axis(every_item, best, axis=1)
