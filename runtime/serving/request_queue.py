"""Requests that wait for company: bounded, grouped by what can share a batch, each with its deadline."""

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
from ..hits import Hit
from ..lists import Caption
from .metrics import ServingMetrics
from .service_time import ServiceTime

Answer: TypeAlias = Future[list[Hit]]
Lane: TypeAlias = tuple[int, bool, int]

# Requests for fewer hits share a batch whatever their k. A batch is ranked and answered for its largest k, so those
# for more share one only within a factor of two.
_SMALL_K = 128
# Requests with deadlines in a batch as long as nobody knows how long one takes.
_FIRST_BATCH = 4
# How often the threads of a queue that is being closed look again, in seconds.
_CLOSING_LOOK = 0.1


@dataclass(eq=False)
class Request:
    """One search. Times are those of the queue's clock, in seconds."""

    query: Caption | NDArray[np.float32]  # a caption, or region features (R, F)
    gallery: Gallery
    k: int
    arrived: float
    deadline: float = math.inf
    min_score: float = -math.inf  # hits with lower scores are dropped
    answer: Answer = field(default_factory=Future)

    @property
    def kind(self) -> tuple[bool, int]:
        """Equal for requests that take as long for a pair: captions or features, and about as many hits."""
        return isinstance(self.query, np.ndarray), max(self.k, _SMALL_K - 1).bit_length()

    @property
    def lane(self) -> Lane:
        """Equal for requests that can share a batch: the same gallery and kind."""
        return id(self.gallery), *self.kind

    @property
    def pairs(self) -> int:
        return max(1, len(self.gallery.live))


class RequestQueue:
    """Where requests wait. Thread-safe; one thread takes batches, one watches deadlines.

    A request is open from `admit` until its answer is done, however that comes about: a result, an error, its deadline
    or a cancellation. The answers are never marked as running, so that they can be cancelled at any time.
    No answer is completed under the lock: its callbacks are the application's.

    A signal's handler may raise an exception anywhere in the main thread, amid `admit` and `_leave` too. So each
    change there is one step, whatever follows from it is worked out afresh when it is needed, and the two threads,
    where no handler runs, clear what an interrupted call has left. Requests are given answers by `new_answer`, whose
    locks a handler can't leave locked.
    """

    def __init__(
        self,
        max_delay: float,
        max_batch: int,
        max_queue: int,
        metrics: ServingMetrics | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """max_delay: seconds that the oldest request of a batch waits for company."""
        self._max_delay, self._max_batch, self._max_queue = max_delay, max_batch, max_queue
        self._metrics, self._clock = metrics, clock
        self._open: dict[Answer, Request] = {}
        self._lanes: dict[Lane, dict[Answer, Request]] = {}  # those of the open ones that wait, the oldest first
        self._service_times: defaultdict[tuple[bool, int], ServiceTime] = defaultdict(ServiceTime)
        self._busy_until = -math.inf  # when the batch that is being scored should be done
        self._closed = ""  # why, once it is
        self._answers_lock = threading.RLock()
        # Entered and left by methods in C: with Condition's own, in Python, a handler may raise after the lock was
        # acquired and before the block begins that releases it.
        lock_methods = {"__enter__": self._answers_lock.__enter__, "__exit__": self._answers_lock.__exit__}
        self._answers_condition = type("_AnswersCondition", (threading.Condition,), lock_methods)
        self._make_locks()

    def new_answer(self) -> Answer:
        """A future for a request of this queue."""
        answer: Answer = Future()
        answer._condition = self._answers_condition(self._answers_lock)
        return answer

    def admit(self, request: Request) -> None:
        """Let a request wait for its batch. Raises Overloaded or Closed.

        Overloaded if `max_queue` requests wait, or if its deadline will have passed before its batch is done, as far
        as the latest batches tell. On an idle machine nobody is refused: one must be tried to learn of better times.
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
            lane = self._lanes.setdefault(request.lane, {})
            lane[request.answer] = request
            self._open[request.answer] = request
            if self._due(lane) < self._batch_bell.next_look:
                self._batch_bell.ring()
            if request.deadline < self._deadline_bell.next_look:
                self._deadline_bell.ring()
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
        """The next batch; blocks until there is one. None when the queue is closed and nobody waits any more.

        The lane whose oldest request came first goes first, as soon as that request has waited for `max_delay`, the
        batch is full, or nobody can join it any more. Time spent behind another batch counts as waiting. The batch is
        as large as lets it end before its requests' deadlines, as far as the latest batches tell.
        """
        while True:
            with self._lock:
                self._busy_until = -math.inf
                now = self._clock()
                if batch := self._pop_due(now):
                    self._batch_bell.next_look = -math.inf  # the thread looks again when the batch is done
                    self._busy_until = now + (self._bound(batch[0], len(batch)) or 0.0)
                    break
                if self._closed and not self._waiting():
                    return None
                wait = self._batch_bell.prepare(self._next_due(), now, bool(self._closed))
            self._batch_bell.wait(wait)
        if self._metrics:
            self._metrics.batch([now - request.arrived for request in batch])
        return batch

    def measured(self, batch: list[Request], seconds: float) -> None:
        """A batch of one lane was scored in so many seconds: what is admitted next depends on it."""
        with self._lock:
            self._service_times[batch[0].kind].observe(sum(request.pairs for request in batch), seconds)

    def take_expired(self) -> list[Answer] | None:
        """The answers whose deadline has passed; blocks until there are some. None once closed and nothing is open."""
        while True:
            with self._lock:
                if self._closed:
                    self._drop_done()
                now = self._clock()
                late = [request for request in self._open.values() if request.deadline <= now]
                for request in late:
                    request.deadline = math.inf  # reported once
                    self._stop_waiting(request)
                if late:
                    return [request.answer for request in late]
                if self._closed and not self._open:
                    return None
                first = min((request.deadline for request in self._open.values()), default=math.inf)
                wait = self._deadline_bell.prepare(first, now, bool(self._closed))
            self._deadline_bell.wait(wait)

    def close(self, reason: str, *, cancel: bool = False) -> None:
        """Admit nobody any more; `cancel` those who wait."""
        with self._lock:
            self._closed = self._closed or reason
            waiting = [answer for lane in self._lanes.values() for answer in lane] if cancel else []
            self._batch_bell.ring()
            self._deadline_bell.ring()
        for answer in waiting:
            answer.cancel()

    def abort(self, reason: str) -> None:
        """Close, and fail everything that is open with Closed."""
        self.close(reason)
        with self._lock:
            answers = list(self._open)
        for answer in answers:
            # Done meanwhile, or a callback of the application that raises what no callback should.
            with suppress(BaseException):
                answer.set_exception(Closed(reason))

    def abort_in_child(self, reason: str) -> None:
        """`abort` in a process that was just forked, where any lock may be held by a thread that is not there."""
        self._make_locks()
        self._metrics, self._lanes = None, {}
        for answer in self._open:
            answer._condition = threading.Condition()
        self.abort(reason)

    def _make_locks(self) -> None:
        # Reentrant: a signal's handler or the garbage collector may close the queue amid another call.
        self._lock = threading.RLock()
        self._batch_bell, self._deadline_bell = _Bell(), _Bell()

    def _waiting(self) -> int:
        return sum(map(len, self._lanes.values()))

    def _expected_end(self, request: Request, now: float) -> float:
        """When a request that is admitted now will be answered; -inf where the machine is idle or not known."""
        end = max(now, self._busy_until)
        if now >= self._busy_until and not self._waiting():
            return -math.inf
        lanes = {key: len(lane) for key, lane in self._lanes.items()}
        lanes[request.lane] = lanes.get(request.lane, 0) + 1
        for key, number in lanes.items():
            one = next(iter(self._lanes.get(key, {}).values()), request)
            full, rest = divmod(number, self._max_batch)
            for size, times in ((self._max_batch, full), (rest, 1)):
                if size and times:
                    bound = self._bound(one, size)
                    if bound is None:
                        return -math.inf
                    end += times * bound
        return end

    def _bound(self, request: Request, size: int) -> float | None:
        """Seconds that a batch of `size` requests like this one takes at most, if that is known."""
        return self._service_times[request.kind].bound(size * request.pairs)

    def _pop_due(self, now: float) -> list[Request]:
        """Up to `max_batch` requests of the lane that is due the longest. Those past their deadline stay behind."""
        for key in [key for key, lane in self._lanes.items() if not lane]:
            del self._lanes[key]
        due = [lane for lane in self._lanes.values() if self._due(lane) <= now]
        if not due:
            return []
        lane = min(due, key=_oldest)
        taken = list(islice(lane.values(), self._max_batch))
        for request in [r for r in taken if r.deadline <= now or r.answer.done()]:
            self._stop_waiting(request)
            taken.remove(request)
        batch = self._in_time(taken, now)
        for request in batch:
            self._stop_waiting(request)
        return batch

    def _in_time(self, requests: list[Request], now: float) -> list[Request]:
        """Those, in their order, that a batch will answer before their deadlines; one at least, to learn from."""
        if all(request.deadline == math.inf for request in requests):
            return requests
        alone = self._bound(requests[0], 1)
        if alone is None:
            return requests[:_FIRST_BATCH]
        able = [request for request in requests if request.deadline > now + alone] or requests[:1]
        first_deadlines = list(accumulate((request.deadline for request in able), min))
        for size in range(len(able), 1, -1):
            if now + (self._bound(able[0], size) or 0.0) < first_deadlines[size - 1]:
                return able[:size]
        return able[:1]

    def _next_due(self) -> float:
        """When a batch is due, infinity if nobody waits."""
        return min((self._due(lane) for lane in self._lanes.values() if lane), default=math.inf)

    def _due(self, lane: dict[Answer, Request]) -> float:
        if not lane:
            return math.inf
        full = len(lane) >= self._max_batch or self._waiting() >= self._max_queue or self._closed
        return _oldest(lane) if full else _oldest(lane) + self._max_delay

    def _stop_waiting(self, request: Request) -> None:
        """Free the place of a request if it has one still."""
        self._lanes.get(request.lane, {}).pop(request.answer, None)
        self._report_waiting()

    def _drop_done(self) -> None:
        """Forget requests whose `_leave` was interrupted."""
        for answer, request in list(self._open.items()):
            if answer.done():
                self._open.pop(answer, None)
                self._stop_waiting(request)

    def _report_waiting(self) -> None:
        if self._metrics:
            self._metrics.waiting(self, self._waiting())

    def _leave(self, answer: Answer) -> None:
        """What a request's answer calls when it is done."""
        with self._lock:
            request = self._open.pop(answer, None)
            if request is None:
                return
            self._stop_waiting(request)
            if self._closed and not self._open:
                self._deadline_bell.ring()
        if answer.cancelled():
            # Wakes those who wait with concurrent.futures.wait or as_completed.
            answer.set_running_or_notify_cancel()
        if self._metrics:
            outcome = "cancelled" if answer.cancelled() else outcome_of(answer.exception())
            self._metrics.finished(outcome, self._clock() - request.arrived)


class _Bell:
    """Wakes the one thread that waits for it. `ring` is a single step, and never lost."""

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()
        self.next_look = -math.inf  # when the thread looks again by itself

    def ring(self) -> None:
        self._rung.put(None)

    def prepare(self, next_look: float, now: float, closing: bool) -> float | None:
        """The time to `wait` for, in seconds. Called under the queue's lock, so that whoever comes next knows."""
        self.next_look = min(next_look, now + _CLOSING_LOOK) if closing else next_look
        return None if self.next_look == math.inf else min(max(0.0, self.next_look - now), threading.TIMEOUT_MAX)

    def wait(self, seconds: float | None) -> None:
        with suppress(Empty):
            self._rung.get(timeout=seconds)
            while True:
                self._rung.get_nowait()


def outcome_of(error: BaseException | None) -> str:
    """What the metrics call the end of a request."""
    names = {NoneType: "answered", Overloaded: "overloaded", DeadlineExceeded: "expired", Closed: "closed"}
    return names.get(type(error), "failed")


def _oldest(lane: dict[Answer, Request]) -> float:
    return next(iter(lane.values())).arrived
