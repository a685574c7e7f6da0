"""The bounded queue of requests waiting for a batch, grouped by which can share one, each with a deadline."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, islice
from queue import Empty, SimpleQueue
from types import NoneType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import Closed, DeadlineExceeded, Overloaded
from ..galleries.gallery import Gallery
from ..hits import EXACT, Hit, Shortlist
from ..lists import Caption
from .metrics import ServingMetrics
from .service_time import ServiceTime

Answer: TypeAlias = Future[list[Hit]]
GroupKey: TypeAlias = tuple[int, bool, int, bool, int | None]

# Requests for fewer hits share a batch whatever their k. A batch is ranked for its largest k, so requests for more
# hits share one only within a factor of two.
_SMALL_K = 128
# Size of a batch with deadlines before any batch's time is known.
_FIRST_BATCH = 4
# How often the threads of a closing queue check again, in seconds.
_CLOSING_CHECK = 0.1


@dataclass(eq=False)
class Request:
    """One search. Times are on the queue's clock, in seconds."""

    query: Caption | NDArray[np.float32]  # a caption, or region features (R, F)
    gallery: Gallery
    k: int
    arrived: float
    deadline: float = math.inf
    min_score: float = -math.inf  # hits with lower scores are dropped
    shortlist: Shortlist = EXACT  # how many items are scored exactly
    answer: Answer = field(default_factory=Future)

    @property
    def kind(self) -> tuple[bool, int, bool]:
        """Equal for requests with the same cost per pair: captions or features, a similar number of hits, scattered
        candidates or all items."""
        is_short = self.shortlist.candidates is not None
        return isinstance(self.query, np.ndarray), max(self.k, _SMALL_K - 1).bit_length(), is_short

    @property
    def group_key(self) -> GroupKey:
        """Equal for requests that can share a batch: same gallery, kind and number of candidates."""
        return id(self.gallery), *self.kind, self.shortlist.candidates

    @property
    def pairs(self) -> int:
        return self.shortlist.candidates or max(1, len(self.gallery.live))


class RequestQueue:
    """The queue of waiting requests. Thread-safe; one thread takes batches, another watches deadlines.

    A request is open from `admit` until its answer is done, by a result, an error, its deadline or cancellation.
    Answers are never marked as running, so that they can be cancelled at any time. No answer is completed under the
    lock, since its callbacks belong to the application.

    A signal handler may raise anywhere in the main thread, including within `admit` and `_leave`. So each change there
    is a single step, derived values are recomputed when needed, and the two threads, where no handler runs, clean up
    after an interrupted call. `new_answer` creates answers whose locks a handler can't leave locked.
    """

    def __init__(
        self,
        max_delay: float,
        max_batch: int,
        max_queue: int,
        metrics: ServingMetrics | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_delay: seconds a batch's oldest request waits for others."""
        self._max_delay, self._max_batch, self._max_queue = max_delay, max_batch, max_queue
        self._metrics, self._clock = metrics, clock
        self._open: dict[Answer, Request] = {}
        self._groups: dict[GroupKey, dict[Answer, Request]] = {}  # open requests still waiting, oldest first
        self._service_times: defaultdict[tuple[bool, int, bool], ServiceTime] = defaultdict(ServiceTime)
        self._busy_until = -math.inf  # estimated end of the running batch
        self._closed = ""  # the reason, once closed
        self._answers_lock = threading.RLock()
        # These methods are in C. Condition's own are in Python, where a handler may raise between acquiring the lock
        # and entering the block that releases it.
        lock_methods = {"__enter__": self._answers_lock.__enter__, "__exit__": self._answers_lock.__exit__}
        self._answers_condition = type("_AnswersCondition", (threading.Condition,), lock_methods)
        self._make_locks()

    def new_answer(self) -> Answer:
        """A future for a request of this queue."""
        answer: Answer = Future()
        answer._condition = self._answers_condition(self._answers_lock)
        return answer

    def admit(self, request: Request) -> None:
        """Queue a request. Raises Overloaded or Closed.

        Overloaded if `max_queue` requests wait, or if, judging by recent batches, its deadline would pass before its
        batch is done. An idle machine refuses no request: running one is the only way to update the estimate.
        """
        request.answer.add_done_callback(self._leave)
        with self._lock:
            if self._closed:
                raise Closed(self._closed)
            if self._waiting() >= self._max_queue:
                self._drop_done()
            if (waiting := self._waiting()) >= self._max_queue:
                raise Overloaded(
                    f"{waiting} requests are waiting, as many as max_queue allows; try again later, or raise"
                    " max_queue if callers can wait longer"
                )
            now = self._clock()
            if request.deadline < math.inf and (done := self._expected_end(request, now)) > request.deadline:
                raise Overloaded(
                    f"an answer would take about {done - now:.2g} s, and the timeout leaves"
                    f" {max(0.0, request.deadline - now):.2g} s; try again later, or allow more time"
                )
            group = self._groups.setdefault(request.group_key, {})
            group[request.answer] = request
            self._open[request.answer] = request
            if self._due(group) < self._batch_wakeup.next_check:
                self._batch_wakeup.wake()
            if request.deadline < self._deadline_wakeup.next_check:
                self._deadline_wakeup.wake()
            self._report_waiting()

    def answer_at_once(self, request: Request, hits: list[Hit]) -> Answer:
        """Answer a request that needs no batch. Raises Closed."""
        with self._lock:
            if self._closed:
                raise Closed(self._closed)
        request.answer.set_result(hits)
        if self._metrics:
            self._metrics.finished("answered", self._clock() - request.arrived)
        return request.answer

    def take(self) -> list[Request] | None:
        """The next batch; blocks until there is one. None when the queue is closed and empty.

        The group with the oldest request goes first, as soon as that request has waited `max_delay`, the batch is
        full, or no request can join it. Time spent behind another batch counts as waiting. The batch is sized to end
        before its requests' deadlines, judging by recent batches.
        """
        while True:
            with self._lock:
                self._busy_until = -math.inf
                now = self._clock()
                if batch := self._pop_due(now):
                    self._batch_wakeup.next_check = -math.inf  # the thread checks again when the batch is done
                    self._busy_until = now + (self._bound(batch[0], len(batch)) or 0.0)
                    break
                if self._closed and not self._waiting():
                    return None
                wait = self._batch_wakeup.prepare(self._next_due(), now, bool(self._closed))
            self._batch_wakeup.wait(wait)
        if self._metrics:
            self._metrics.batch([now - request.arrived for request in batch])
        return batch

    def measured(self, batch: list[Request], seconds: float) -> None:
        """Record a batch's time in seconds, which later admissions depend on."""
        with self._lock:
            self._service_times[batch[0].kind].observe(sum(request.pairs for request in batch), seconds)

    def take_expired(self) -> list[Answer] | None:
        """Answers past their deadline; blocks until there are some. None once closed with no open request."""
        while True:
            with self._lock:
                if self._closed:
                    self._drop_done()
                now = self._clock()
                expired = [request for request in self._open.values() if request.deadline <= now]
                for request in expired:
                    request.deadline = math.inf  # reported once
                    self._stop_waiting(request)
                if expired:
                    return [request.answer for request in expired]
                if self._closed and not self._open:
                    return None
                first = min((request.deadline for request in self._open.values()), default=math.inf)
                wait = self._deadline_wakeup.prepare(first, now, bool(self._closed))
            self._deadline_wakeup.wait(wait)

    def close(self, reason: str, *, cancel: bool = False) -> None:
        """Admit no more requests; `cancel` the waiting ones."""
        with self._lock:
            self._closed = self._closed or reason
            waiting = [answer for group in self._groups.values() for answer in group] if cancel else []
            self._batch_wakeup.wake()
            self._deadline_wakeup.wake()
        for answer in waiting:
            answer.cancel()

    def abort(self, reason: str) -> None:
        """Close, and fail all open requests with Closed."""
        self.close(reason)
        with self._lock:
            answers = list(self._open)
        for answer in answers:
            # The answer may be done meanwhile, or an application's callback may raise even a BaseException.
            with suppress(BaseException):
                answer.set_exception(Closed(reason))

    def abort_in_child(self, reason: str) -> None:
        """`abort` in a newly forked process, where locks may be held by threads that no longer exist."""
        self._make_locks()
        self._metrics, self._groups = None, {}
        for answer in self._open:
            answer._condition = threading.Condition()
        self.abort(reason)

    def _make_locks(self) -> None:
        # Reentrant: a signal handler or the garbage collector may close the queue during another call.
        self._lock = threading.RLock()
        self._batch_wakeup, self._deadline_wakeup = _Wakeup(), _Wakeup()

    def _waiting(self) -> int:
        return sum(map(len, self._groups.values()))

    def _expected_end(self, request: Request, now: float) -> float:
        """When a request admitted now would be answered; -inf if the machine is idle or its speed unknown."""
        end = max(now, self._busy_until)
        if now >= self._busy_until and not self._waiting():
            return -math.inf
        groups = {key: len(group) for key, group in self._groups.items()}
        groups[request.group_key] = groups.get(request.group_key, 0) + 1
        for key, number in groups.items():
            example = next(iter(self._groups.get(key, {}).values()), request)
            full, rest = divmod(number, self._max_batch)
            for size, times in ((self._max_batch, full), (rest, 1)):
                if size and times:
                    bound = self._bound(example, size)
                    if bound is None:
                        return -math.inf
                    end += times * bound
        return end

    def _bound(self, request: Request, size: int) -> float | None:
        """Upper estimate of the seconds a batch of `size` such requests takes; None if unknown."""
        return self._service_times[request.kind].bound(size * request.pairs)

    def _pop_due(self, now: float) -> list[Request]:
        """Up to `max_batch` requests of the group with the oldest due request. Expired requests are left out."""
        for key in [key for key, group in self._groups.items() if not group]:
            del self._groups[key]
        due = [group for group in self._groups.values() if self._due(group) <= now]
        if not due:
            return []
        group = min(due, key=_oldest)
        taken = list(islice(group.values(), self._max_batch))
        for request in [r for r in taken if r.deadline <= now or r.answer.done()]:
            self._stop_waiting(request)
            taken.remove(request)
        batch = self._in_time(taken, now)
        for request in batch:
            self._stop_waiting(request)
        return batch

    def _in_time(self, requests: list[Request], now: float) -> list[Request]:
        """The requests, in order, that a batch can answer before their deadlines; at least one, to update estimates."""
        if all(request.deadline == math.inf for request in requests):
            return requests
        alone = self._bound(requests[0], 1)
        if alone is None:
            return requests[:_FIRST_BATCH]
        feasible = [request for request in requests if request.deadline > now + alone] or requests[:1]
        first_deadlines = list(accumulate((request.deadline for request in feasible), min))
        for size in range(len(feasible), 1, -1):
            if now + (self._bound(feasible[0], size) or 0.0) < first_deadlines[size - 1]:
                return feasible[:size]
        return feasible[:1]

    def _next_due(self) -> float:
        """When the next batch is due; infinity if no request waits."""
        return min((self._due(group) for group in self._groups.values() if group), default=math.inf)

    def _due(self, group: dict[Answer, Request]) -> float:
        if not group:
            return math.inf
        full = len(group) >= self._max_batch or self._waiting() >= self._max_queue or self._closed
        return _oldest(group) if full else _oldest(group) + self._max_delay

    def _stop_waiting(self, request: Request) -> None:
        """Remove a request from the waiting ones, if it still waits."""
        self._groups.get(request.group_key, {}).pop(request.answer, None)
        self._report_waiting()

    def _drop_done(self) -> None:
        """Remove requests whose `_leave` was interrupted."""
        for answer, request in list(self._open.items()):
            if answer.done():
                self._open.pop(answer, None)
                self._stop_waiting(request)

    def _report_waiting(self) -> None:
        if self._metrics:
            self._metrics.waiting(self, self._waiting())

    def _leave(self, answer: Answer) -> None:
        """Called when a request's answer is done."""
        with self._lock:
            request = self._open.pop(answer, None)
            if request is None:
                return
            self._stop_waiting(request)
            if self._closed and not self._open:
                self._deadline_wakeup.wake()
        if answer.cancelled():
            # Wakes callers of concurrent.futures.wait and as_completed.
            answer.set_running_or_notify_cancel()
        if self._metrics:
            outcome = "cancelled" if answer.cancelled() else outcome_of(answer.exception())
            self._metrics.finished(outcome, self._clock() - request.arrived)


class _Wakeup:
    """Wakes the single thread that waits on it. `wake` is one atomic step and never lost."""

    def __init__(self) -> None:
        self._signals: SimpleQueue[None] = SimpleQueue()
        self.next_check = -math.inf  # when the thread checks again by itself

    def wake(self) -> None:
        self._signals.put(None)

    def prepare(self, next_check: float, now: float, closing: bool) -> float | None:
        """The seconds to `wait`. Called under the queue's lock, so that later calls see `next_check`."""
        self.next_check = min(next_check, now + _CLOSING_CHECK) if closing else next_check
        return None if self.next_check == math.inf else min(max(0.0, self.next_check - now), threading.TIMEOUT_MAX)

    def wait(self, seconds: float | None) -> None:
        with suppress(Empty):
            self._signals.get(timeout=seconds)
            while True:
                self._signals.get_nowait()


def outcome_of(error: BaseException | None) -> str:
    """The metrics' name for how a request ended."""
    names = {NoneType: "answered", Overloaded: "overloaded", DeadlineExceeded: "expired", Closed: "closed"}
    return names.get(type(error), "failed")


def _oldest(group: dict[Answer, Request]) -> float:
    return next(iter(group.values())).arrived
