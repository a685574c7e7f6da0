"""Estimates how long batches currently take on this machine, from recent ones."""

from __future__ import annotations

# Weight of a batch relative to the next one: about the last ten matter.
_MEMORY = 0.9
# Relative error assumed before any estimate could be checked.
_FIRST_ERROR = 0.25


class ServiceTime:
    """Time of a batch as a + b × pairs, in seconds, fitted by least squares to recent batches.

    While all batches had the same size, a is 0: larger ones are expected to take proportionally longer, so that batches
    grow in steps on a slow machine.
    """

    def __init__(self) -> None:
        self._weight = self._pairs = self._pairs_squared = self._seconds = self._products = 0.0
        self._error = _FIRST_ERROR  # the mean of |seconds ÷ estimate - 1|

    def observe(self, pairs: int, seconds: float) -> None:
        """Record a batch of query-item pairs that took `seconds`."""
        if self._weight:
            self._error += (1 - _MEMORY) * (abs(seconds / max(self._expected(pairs), 1e-9) - 1) - self._error)
            self._error = min(self._error, 1.0)
        self._weight = _MEMORY * self._weight + 1
        self._pairs = _MEMORY * self._pairs + pairs
        self._pairs_squared = _MEMORY * self._pairs_squared + pairs**2
        self._seconds = _MEMORY * self._seconds + seconds
        self._products = _MEMORY * self._products + pairs * seconds

    def bound(self, pairs: int) -> float | None:
        """Seconds in which such a batch is likely done, including a margin for recent errors; None if unknown."""
        return self._expected(pairs) * (1 + 2 * self._error) if self._weight else None

    def _expected(self, pairs: int) -> float:
        proportional = self._products / self._pairs_squared * pairs
        spread = self._weight * self._pairs_squared - self._pairs**2
        if spread <= 1e-6 * self._pairs**2:
            return proportional
        slope = (self._weight * self._products - self._pairs * self._seconds) / spread
        start = (self._seconds - slope * self._pairs) / self._weight
        if slope < 0:
            return self._seconds / self._weight
        return proportional if start < 0 else start + slope * pairs
