"""Batches concurrent searches: requests that arrive together are encoded and scored together."""

from __future__ import annotations

import atexit
import math
import os
import threading
import time
import weakref
from concurrent.futures import InvalidStateError
from contextlib import suppress
from operator import index
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from ...errors import CaanError, Closed, DeadlineExceeded, InputError, Overloaded
from ..arguments import check_is_gallery, check_is_retriever
from ..galleries.gallery import Gallery
from ..hits import Hit, Hits, resolve_min_score
from ..inputs import are_images, check_features, check_gallery, known_caption, resolve_k, shortened, tokenize
from ..lists import Query, TokenizedCaption, queries_of
from ..retriever import Ids, Retriever
from ..sketches.shortlist import resolve
from ..unknown_words import UnknownWords
from .metrics import ServingMetrics
from .request_log import RequestLog
from .request_queue import Answer, Request, RequestQueue, outcome_of

# How long an exiting interpreter waits for the running batch.
_EXIT_SECONDS = 10.0
_CLOSED = "this BatchingRetriever was closed; make a new one to search again"


class Filters(TypedDict, total=False):
    """A search's filters, as in `Retriever.search`."""

    clamp: bool
    ids: Ids | None
    exclude: Ids | None
    min_score: float | None
    recall: float | None
    candidates: int | None


class BatchingRetriever:
    """Searches for many threads or asyncio tasks, batching requests that arrive within `max_delay_ms`.

    Requests for the same Gallery object, all captions or all region features, share a batch. Results equal those of
    `Retriever.search` to 1e-5. A request for 128 hits or more shares a batch only with those for a similar number. A
    batch starts when its oldest request has waited `max_delay_ms` or when it has `max_batch` requests. While one batch
    is scored the next one collects, and starts at once if its oldest request has waited long enough: only an idle
    machine waits for more requests, and with `max_delay_ms=0` it doesn't either.

    At most `max_queue` requests wait; further ones are refused with Overloaded, and so is one whose `timeout` is
    shorter than the estimated time of the work ahead of it, judging by recent batches. Batches are sized to end before
    their requests' deadlines, and expired requests are never scored. If all requests search one gallery, an accepted
    request is answered within `max_delay + (2 + (max_queue - 1) // max_batch) × t`, where t is the time of a full
    batch: the running batch, the full ones ahead, its own. To stay within a bound B, set
    `max_queue = max_batch × ((B - max_delay) / t - 1)`, the bracket rounded down. Each further gallery searched at the
    same time adds up to one batch.

    A request with `ids` or `exclude` is scored in its own batch; requests for the same view, made once with
    `Gallery.select`, share batches.

    Refused, expired, slow and failed requests are logged to `caan.runtime.serving`, each kind at most once per ten
    seconds, with the number of those not logged.

    Close it, or use it in a `with` block. After a fork it works only in the parent.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        max_delay_ms: float = 5.0,
        max_batch: int = 32,
        max_queue: int = 64,
        metrics: ServingMetrics | None = None,
        slow_ms: float | None = 1000.0,
    ) -> None:
        """slow_ms: log requests that take longer from arrival to answer, in milliseconds; None: log none.

        Raises InputError for a limit that is not positive; a `max_delay_ms` of 0 is allowed.
        """
        if not 0 <= max_delay_ms < math.inf or index(max_batch) < 1 or index(max_queue) < 1:
            raise InputError(
                f"max_delay_ms must be 0 or more, max_batch and max_queue 1 or more, not {max_delay_ms}, {max_batch},"
                f" {max_queue}"
            )
        check_is_retriever(retriever)
        self.retriever = retriever
        self._unknown_words = UnknownWords(lasting=True)
        self._metrics = metrics
        self._log = RequestLog(slow_ms)
        self._queue = RequestQueue(max_delay_ms / 1000, max_batch, max_queue, metrics)
        # The threads reference the queue, not this object. So it can be garbage-collected without close(), and the
        # threads end once all accepted requests are answered.
        self._threads = [
            threading.Thread(target=_serve, args=(self._queue, retriever, self._log), name="caan-batches", daemon=True),
            threading.Thread(
                target=_watch_deadlines, args=(self._queue, self._log), name="caan-deadlines", daemon=True
            ),
        ]
        _QUEUES.add(self._queue)
        weakref.finalize(self, self._queue.close, _CLOSED).atexit = False
        for thread in self._threads:
            _THREADS.add(thread)
            thread.start()

    def search(
        self,
        query: Query,
        gallery: Gallery,
        k: int | None = None,
        *,
        timeout: float | None = None,
        **filters: Unpack[Filters],
    ) -> list[Hit]:
        """As `Retriever.search`; blocks. timeout: seconds until the answer is due.

        Raises as `submit`, DeadlineExceeded at the deadline, and what the search itself raises.
        """
        if threading.current_thread() in self._threads:
            raise InputError("search() in a future's callback would wait for itself; use submit() there")
        answer = self._submit(query, gallery, k, timeout, filters)
        try:
            # Not Future.result: a signal handler can interrupt its wait without the lock, which it then releases.
            done: SimpleQueue[Answer] = SimpleQueue()
            answer.add_done_callback(done.put)
            return done.get().result()
        finally:
            answer.cancel()  # if interrupted, as by Ctrl-C: the answer is no longer needed

    async def asearch(
        self,
        query: Query,
        gallery: Gallery,
        k: int | None = None,
        *,
        timeout: float | None = None,
        **filters: Unpack[Filters],
    ) -> list[Hit]:
        """As `search`, for asyncio: does not block the event loop, and cancelling the task cancels the request."""
        # Imported here: callers who await have it loaded already, and others need not load it.
        import asyncio

        return await asyncio.wrap_future(self._submit(query, gallery, k, timeout, filters))

    def submit(
        self,
        query: Query,
        gallery: Gallery,
        k: int | None = None,
        *,
        timeout: float | None = None,
        **filters: Unpack[Filters],
    ) -> Answer:
        """As `search`, without waiting: returns a future of the hits, which can be cancelled until done.

        query and gallery as for `Retriever.search`; features are copied. A cancelled request frees its place at once;
        if its batch is running, its answer is dropped. The future's callbacks should be quick: they delay others.
        Raises DataError for a query, gallery or k that `Retriever.search` refuses, Overloaded if the queue is full,
        DeadlineExceeded for a timeout that is not positive, Closed after `close`, or in a forked child.
        """
        return self._submit(query, gallery, k, timeout, filters)

    def close(self, *, cancel: bool = False) -> None:
        """Accept no more requests and wait until the accepted ones are answered; `cancel` those not started.

        New requests raise Closed. Closing again does nothing. In a future's callback it does not wait.
        """
        self._queue.close(_CLOSED, cancel=cancel)
        if threading.current_thread() in self._threads:
            return  # joining would deadlock: this is one of the threads
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, query: Query, gallery: Gallery, k: int | None, timeout: float | None, filters: Filters) -> Answer:
        arrived = time.monotonic()
        if unknown := sorted(filters.keys() - Filters.__annotations__.keys()):
            raise TypeError(f"a search takes no argument '{unknown[0]}'; it takes {', '.join(Filters.__annotations__)}")
        try:
            if timeout is not None and not timeout > 0:
                raise DeadlineExceeded(f"a timeout of {timeout:.3g} s is over before the request starts; allow more")
            prepared = self._prepared(query, gallery)
            k = resolve_k(k, gallery, clamp=filters.get("clamp", False))
            min_score = resolve_min_score(filters.get("min_score"))
            shortlist = resolve(gallery, k, filters.get("recall"), filters.get("candidates"))
            searched = gallery.select(filters.get("ids"), filters.get("exclude"))
            k = min(k, len(searched.live)) if searched is not gallery else k
            request = Request(
                prepared,
                searched,
                k,
                arrived,
                min_score=min_score,
                shortlist=shortlist,
                answer=self._queue.new_answer(),
            )
            if k == 0 and searched is not gallery:  # the filters match no item
                return self._queue.answer_at_once(request, Hits())
            if timeout is not None:
                request.deadline = arrived + timeout
            try:
                self._queue.admit(request)
            except BaseException:
                request.answer.cancel()  # the caller never receives it
                raise
        except CaanError as error:
            if isinstance(error, Overloaded | Closed):
                self._log.refused(error)
            if self._metrics:
                self._metrics.refused("invalid" if isinstance(error, InputError) else outcome_of(error))
            raise
        return request.answer

    def _prepared(self, query: Query, gallery: Gallery) -> TokenizedCaption | NDArray[np.float32]:
        """A validated copy of the query, since one invalid query would fail its whole batch."""
        check_is_gallery(gallery, query)
        check_gallery(gallery, gallery.kind, self.retriever.backend)
        backend = self.retriever.backend
        (query,) = queries = queries_of([query])
        if are_images(queries, gallery.kind):
            assert isinstance(query, np.ndarray)
            check_features(query[None], backend.model.config["region_dim"], backend.model.limits["regions"])
            with np.errstate(over="ignore"):
                return np.array(query, np.float32, order="C")
        assert not isinstance(query, np.ndarray)
        words = known_caption(query, backend.model.vocabulary)
        # Truncate here, so that the warning points at the caller's line and the batch does not repeat it.
        limit = backend.model.limits["words"]
        tokenize([words], backend.model.vocabulary, limit, stacklevel=5, unknown_words=self._unknown_words)
        return known_caption(shortened(words, limit, backend.model.vocabulary), backend.model.vocabulary)


_QUEUES: weakref.WeakSet[RequestQueue] = weakref.WeakSet()
_THREADS: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


def _serve(queue: RequestQueue, retriever: Retriever, log: RequestLog) -> None:
    """Score batches until the queue is closed and empty."""
    try:
        while batch := queue.take():
            _answer(queue, retriever, log, batch)
    except BaseException as error:
        log.died("scores batches", error)
        queue.abort(f"the thread that scores batches died ({error!r}); make a new BatchingRetriever")


def _watch_deadlines(queue: RequestQueue, log: RequestLog) -> None:
    try:
        while expired := queue.take_expired():
            log.expired(len(expired))
            for answer in expired:
                with suppress(InvalidStateError):
                    answer.set_exception(DeadlineExceeded("no answer within the timeout; allow more, or retry later"))
    except BaseException as error:
        log.died("watches deadlines", error)
        queue.abort(f"the thread that watches deadlines died ({error!r}); make a new BatchingRetriever")


def _answer(queue: RequestQueue, retriever: Retriever, log: RequestLog, batch: list[Request]) -> None:
    """Answer a batch. If it fails, retry its halves, until the failing requests are isolated.

    Empties `batch`: otherwise an error's traceback would keep the requests, and through them itself, alive.
    """
    pending = [request for request in batch if not request.answer.done()]
    batch.clear()
    if not pending:
        return
    started = time.monotonic()
    try:
        k = max(request.k for request in pending)
        queries, gallery = [request.query for request in pending], pending[0].gallery
        candidates = pending[0].shortlist.candidates
        if candidates is None:
            results = retriever.search_many(queries, gallery, k)
        else:  # one of the others may want more hits than the first has candidates
            results = retriever.search_many(queries, gallery, k, candidates=max(candidates, k))
    except Exception as error:
        if len(pending) == 1:
            log.failed(error, unexpected=not isinstance(error, CaanError))
            _complete(pending.pop(), error)
    else:
        ended, batch_size = time.monotonic(), len(pending)
        queue.measured(pending, ended - started)
        while pending:
            request = pending.pop(0)
            found = results.pop(0)
            best = (hit for hit in found[: request.k] if hit.score >= request.min_score)
            hits = Hits(best, request.shortlist.candidates, request.shortlist.recall)
            _complete(request, hits)
            log.answered(ended - request.arrived, started - request.arrived, batch_size, request.pairs)
    if pending:
        half = (len(pending) + 1) // 2
        _answer(queue, retriever, log, pending[:half])
        _answer(queue, retriever, log, pending[half:])


def _complete(request: Request, outcome: list[Hit] | Exception) -> None:
    # Suppressed if the request was cancelled or has expired meanwhile.
    with suppress(InvalidStateError):
        if isinstance(outcome, Exception):
            request.answer.set_exception(outcome)
        else:
            request.answer.set_result(outcome)


def _at_exit() -> None:
    """Let the running batch finish: a thread returning from a backend into a finalized interpreter would crash."""
    for queue in list(_QUEUES):
        queue.close(_CLOSED, cancel=True)
    until = time.monotonic() + _EXIT_SECONDS
    for thread in list(_THREADS):
        thread.join(max(0.0, until - time.monotonic()))


def _in_child() -> None:
    """A forked process lacks the threads and a usable backend."""
    for queue in list(_QUEUES):
        queue.abort_in_child("this process was forked from the one that opened the bundle; open it again here")


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
