"""Rate-limited log lines about refused, late, slow and failed requests, for the server's operator."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable

_log = logging.getLogger(__name__)
# At most one line of each kind in this many seconds.
_SECONDS = 10.0


class RequestLog:
    """Logs each kind of event at most once per ten seconds, with the number left out. Thread-safe.

    slow_ms: log requests that take longer from arrival to answer, in milliseconds; None: log none.
    """

    def __init__(self, slow_ms: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._slow = float("inf") if slow_ms is None else slow_ms / 1000
        self._clock = clock
        self._last: dict[str, float] = {}
        self._left_out: defaultdict[str, int] = defaultdict(int)

    def refused(self, reason: BaseException) -> None:
        """A request was not admitted."""
        self._say(logging.WARNING, "request refused: %s", str(reason))

    def expired(self, number: int) -> None:
        """`number` requests had no answer within their timeout."""
        self._say(logging.WARNING, "no answer within the timeout: %d requests", number)

    def answered(self, seconds: float, waited: float, batch: int, items: int) -> None:
        """A request was answered `seconds` after its arrival, after waiting `waited` seconds for its batch."""
        if seconds > self._slow:
            arguments = seconds, waited, batch, items
            self._say(logging.WARNING, "slow request: %.2f s, %.2f s in the queue, batch of %d, %d items", *arguments)

    def failed(self, error: BaseException, *, unexpected: bool) -> None:
        """Scoring failed for a request; with a traceback if it is unexpected."""
        self._say(logging.ERROR, "request failed: %s", str(error) or repr(error), error=error if unexpected else None)

    def died(self, thread: str, error: BaseException) -> None:
        """A thread of the BatchingRetriever died."""
        _log.critical("the thread that %s died: %r", thread, error, exc_info=error)

    def _say(self, level: int, message: str, *arguments: object, error: BaseException | None = None) -> None:
        # No lock, which a signal handler could leave locked. At worst, two threads log one line each.
        if not _log.isEnabledFor(level):
            return
        now = self._clock()
        if now - self._last.get(message, -float("inf")) < _SECONDS:
            self._left_out[message] += 1
            return
        self._last[message] = now
        more = self._left_out.pop(message, 0)
        message += f" (and {more} more since the last such line)" if more else ""
        _log.log(level, message, *arguments, exc_info=error)
