"""Requests that wait for company: bounded, grouped by what can share a batch, each with its deadline."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from types import NoneType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ...errors import Closed, DeadlineExceeded, Overloaded
from ..galleries.gallery import Gallery
from ..retriever import Hit
from .metrics import ServingMetrics

Answer: TypeAlias = Future[list[Hit]]
Lane: TypeAlias = tuple[int, bool]


@dataclass(eq=False)
class Request:
    """One search. Times are those of `time.monotonic`, in seconds."""

    query: list[str] | NDArray[np.float32]  # words, or region features (R, F)
    gallery: Gallery
    k: int
    arrived: float
    deadline: float = math.inf
    answer: Answer = field(default_factory=Future)

    @property
    def lane(self) -> Lane:
        """Equal for requests that can share a batch: the same gallery, and both captions or both features."""
        return id(self.gallery), isinstance(self.query, np.ndarray)


class RequestQueue:
    """Where requests wait. Thread-safe; one thread takes batches, one watches deadlines.

    A request is open from `admit` until its answer is done, however that comes about: a result, an error, its deadline
    or a cancellation. The answers are never marked as running, so that they can be cancelled at any time.
    No answer is completed under the lock: its callbacks are the application's.
    """

    def __init__(self, max_delay: float, max_batch: int, max_queue: int, metrics: ServingMetrics | None) -> None:
        """max_delay: seconds that the oldest request of a batch waits for company."""
        self._max_delay, self._max_batch, self._max_queue = max_delay, max_batch, max_queue
        self._metrics = metrics
        self._open: dict[Answer, Request] = {}
        self._lanes: dict[Lane, dict[Answer, Request]] = {}  # those of the open ones that wait, the oldest first
        self._waiting = 0
        self._closed = ""  # why, once it is
        self._next_look = math.inf  # when the thread that watches deadlines wakes up
        self._make_locks()

    def admit(self, request: Request) -> None:
        """Let a request wait for its batch. Raises Overloaded or Closed."""
        with self._lock:
            if self._closed:
                raise Closed(self._closed)
            if self._waiting >= self._max_queue:
                raise Overloaded(
                    f"{self._waiting} requests are waiting, as many as max_queue allows; try again later, or raise"
                    " max_queue if callers can wait longer"
                )
            lane = self._lanes.setdefault(request.lane, {})
            lane[request.answer] = self._open[request.answer] = request
            self._waiting += 1
            # Others change nothing about when the next batch leaves: waking the thread for them would cost time.
            if len(lane) in (1, self._max_batch) or self._waiting == self._max_queue:
                self._batch_changed.notify()
            if request.deadline < self._next_look:
                self._deadline_changed.notify()
            if self._metrics:
                self._metrics.waiting(+1)
        request.answer.add_done_callback(self._leave)

    def take(self) -> list[Request] | None:
        """The next batch; blocks until there is one. None when the queue is closed and nobody waits any more.

        The lane whose oldest request came first goes first, as soon as that request has waited for `max_delay`, the
        batch is full, or nobody can join it any more. Time spent behind another batch counts as waiting.
        """
        with self._lock:
            while not (batch := self._pop_due(time.monotonic())):
                if self._closed and not self._waiting:
                    return None
                self._batch_changed.wait(self._until_due(time.monotonic()))
        if self._metrics:
            now = time.monotonic()
            self._metrics.batch([now - request.arrived for request in batch])
        return batch

    def take_expired(self) -> list[Answer] | None:
        """The answers whose deadline has passed; blocks until there are some. None once closed and nothing is open."""
        with self._lock:
            while True:
                now = time.monotonic()
                late = [request for request in self._open.values() if request.deadline <= now]
                for request in late:
                    request.deadline = math.inf  # reported once
                    self._stop_waiting(request)
                if late:
                    return [request.answer for request in late]
                if self._closed and not self._open:
                    return None
                self._next_look = min((request.deadline for request in self._open.values()), default=math.inf)
                self._deadline_changed.wait(min(self._next_look - now, threading.TIMEOUT_MAX))

    def close(self, reason: str, *, cancel: bool = False) -> None:
        """Admit nobody any more; `cancel` those who wait."""
        with self._lock:
            self._closed = self._closed or reason
            waiting = [answer for lane in self._lanes.values() for answer in lane] if cancel else []
            self._batch_changed.notify()
            self._deadline_changed.notify()
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
        self._metrics, self._lanes, self._waiting = None, {}, 0
        for answer in self._open:
            answer._condition = threading.Condition()
        self.abort(reason)

    def _make_locks(self) -> None:
        # Reentrant: a signal's handler or the garbage collector may close the queue amid another call.
        self._lock = threading.RLock()
        self._batch_changed, self._deadline_changed = (threading.Condition(self._lock) for _ in range(2))

    def _pop_due(self, now: float) -> list[Request]:
        """Up to `max_batch` requests of the lane that is due the longest. Those past their deadline stay behind."""
        due = [lane for lane in self._lanes.values() if self._due(lane) <= now]
        if not due:
            return []
        lane = min(due, key=_oldest)
        taken = list(islice(lane.values(), self._max_batch))
        for request in taken:
            self._stop_waiting(request)
        return [request for request in taken if request.deadline > now]

    def _until_due(self, now: float) -> float | None:
        """Seconds until a batch is due, None if nobody waits."""
        first = min((self._due(lane) for lane in self._lanes.values()), default=None)
        return None if first is None else min(max(0.0, first - now), threading.TIMEOUT_MAX)

    def _due(self, lane: dict[Answer, Request]) -> float:
        full = len(lane) >= self._max_batch or self._waiting >= self._max_queue or self._closed
        return _oldest(lane) if full else _oldest(lane) + self._max_delay

    def _stop_waiting(self, request: Request) -> None:
        """Free the slot of a request if it has one still."""
        lane = self._lanes.get(request.lane, {})
        if lane.pop(request.answer, None) is None:
            return
        self._waiting -= 1
        if self._metrics:
            self._metrics.waiting(-1)
        if not lane:
            del self._lanes[request.lane]

    def _leave(self, answer: Answer) -> None:
        """What a request's answer calls when it is done."""
        with self._lock:
            request = self._open.pop(answer)
            self._stop_waiting(request)
            if self._closed and not self._open:
                self._deadline_changed.notify()
        if answer.cancelled():
            # Wakes those who wait with concurrent.futures.wait or as_completed.
            answer.set_running_or_notify_cancel()
        if self._metrics:
            outcome = "cancelled" if answer.cancelled() else outcome_of(answer.exception())
            self._metrics.finished(outcome, time.monotonic() - request.arrived)


def outcome_of(error: BaseException | None) -> str:
    """What the metrics call the end of a request."""
    names = {NoneType: "answered", Overloaded: "overloaded", DeadlineExceeded: "expired", Closed: "closed"}
    return names.get(type(error), "failed")


def _oldest(lane: dict[Answer, Request]) -> float:
    return next(iter(lane.values())).arrived
