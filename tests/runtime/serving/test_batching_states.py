"""Deadlines, cancellation, closing and dying threads, in every state of a request."""

import asyncio
import ctypes
import gc
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from caan.errors import Closed, DeadlineExceeded, Overloaded
from caan.runtime import BatchingRetriever, ServingMetrics
from caan.runtime.serving.request_queue import Request, RequestQueue

FOREVER = 60_000.0  # ms: a batch starts only when full
PATIENCE = 60  # seconds until a hanging test fails


class Gated:
    """A Retriever whose searches wait for `go`. `begun` counts them."""

    def __init__(self, retriever):
        self.backend, self._retriever = retriever.backend, retriever
        self.batches, self.begun, self.go = [], threading.Semaphore(0), threading.Event()

    def search_many(self, queries, gallery, k):
        self.batches.append([" ".join(query) for query in queries])
        self.begun.release()
        assert self.go.wait(PATIENCE)
        return self._retriever.search_many(queries, gallery, k)


@pytest.fixture(scope="module")
def gallery(retriever):
    return retriever.encode_images(np.random.default_rng(1).standard_normal((6, 5, 12)).astype(np.float32))


@pytest.fixture
def gated(retriever):
    gated = Gated(retriever)
    yield gated
    gated.go.set()


def run_one(batching, gated, gallery, caption="w0"):
    """Submit a request and wait until its batch is being searched."""
    answer = batching.submit(caption, gallery, 2)
    assert gated.begun.acquire(timeout=PATIENCE)
    return answer


def test_requests_collect_while_a_batch_runs(gated, gallery):
    with BatchingRetriever(gated, max_delay_ms=0) as batching:
        run_one(batching, gated, gallery)
        answers = [batching.submit(f"w{n}", gallery, 2) for n in range(1, 5)]
        gated.go.set()
        assert all(len(answer.result(PATIENCE)) == 2 for answer in answers)
    assert gated.batches == [["w0"], ["w1", "w2", "w3", "w4"]]


def test_a_full_queue_refuses_at_once_and_a_free_place_accepts(gated, gallery):
    metrics = ServingMetrics()
    with BatchingRetriever(gated, max_delay_ms=0, max_queue=2, metrics=metrics) as batching:
        run_one(batching, gated, gallery)
        waiting = [batching.submit(f"w{n}", gallery, 2) for n in (1, 2)]
        with pytest.raises(Overloaded, match="2 requests are waiting, as many as max_queue allows; try again later"):
            batching.search("w3", gallery, 2)
        assert waiting[0].cancel()
        accepted = batching.submit("w4", gallery, 2)
        gated.go.set()
        assert len(accepted.result(PATIENCE)) == len(waiting[1].result(PATIENCE)) == 2
    assert gated.batches == [["w0"], ["w2", "w4"]]
    assert metrics.registry.get_sample_value("caan_search_requests_total", {"outcome": "overloaded"}) == 1


def test_a_deadline_is_kept_while_the_batch_runs(gated, gallery):
    with BatchingRetriever(gated, max_delay_ms=FOREVER, max_batch=2) as batching:
        patient = batching.submit("w1", gallery, 2)
        hasty = batching.submit("w2", gallery, 2, timeout=1)
        with pytest.raises(DeadlineExceeded):
            hasty.result(PATIENCE)
        assert not gated.go.is_set() and gated.batches == [["w1", "w2"]]
        gated.go.set()
        assert len(patient.result(PATIENCE)) == 2


def test_a_deadline_is_kept_in_the_queue_and_the_request_never_computed(gated, gallery):
    with BatchingRetriever(gated, max_delay_ms=0, max_queue=1) as batching:
        run_one(batching, gated, gallery)
        with pytest.raises(TimeoutError):
            batching.search("w1", gallery, 2, timeout=0.1)
        assert not gated.go.is_set()
        later = batching.submit("w2", gallery, 2)  # its place is free again
        gated.go.set()
        later.result(PATIENCE)
    assert gated.batches == [["w0"], ["w2"]]


def test_a_deadline_is_kept_while_the_batch_gathers(gated, gallery):
    with BatchingRetriever(gated, max_delay_ms=FOREVER) as batching:
        late = batching.submit("w1", gallery, 2, timeout=30)
        # Earlier than the deadline the thread sleeps until.
        soon = batching.submit("w2", gallery, 2, timeout=0.1)
        with pytest.raises(DeadlineExceeded):
            soon.result(PATIENCE)
        assert not late.done() and gated.batches == []
        late.cancel()


def test_an_expired_request_is_not_taken_before_it_is_reported(gallery):
    queue = RequestQueue(max_delay=0, max_batch=4, max_queue=4, metrics=None)
    now = time.monotonic()
    expired, good = Request(["w1"], gallery, 1, now, deadline=now), Request(["w2"], gallery, 1, now)
    queue.admit(expired)
    queue.admit(good)
    assert queue.take() == [good]
    assert queue.take_expired() == [expired.answer]


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan")])
def test_a_non_positive_timeout_is_refused(gated, gallery, timeout):
    with BatchingRetriever(gated) as batching, pytest.raises(DeadlineExceeded):
        batching.submit("w1", gallery, 2, timeout=timeout)
    assert gated.batches == []


@pytest.mark.parametrize("timeout", [1e300, float("inf")])
def test_a_timeout_may_be_endless(retriever, gallery, timeout):
    with BatchingRetriever(retriever) as batching:
        assert len(batching.search("w1", gallery, 2, timeout=timeout)) == 2
        with pytest.raises(DeadlineExceeded):  # other deadlines are watched as before
            batching.submit("w1", gallery, 2, timeout=1e-9).result(PATIENCE)


def test_a_waiting_request_is_cancelled(gated, gallery):
    with BatchingRetriever(gated, max_delay_ms=FOREVER, max_batch=2, max_queue=2) as batching:
        cancelled = batching.submit("w1", gallery, 2)
        assert cancelled.cancel()
        # Other waiters are woken, too.
        assert wait([cancelled], timeout=PATIENCE).done == {cancelled}
        gated.go.set()
        answers = [batching.submit(f"w{n}", gallery, 2) for n in (2, 3)]
        assert all(len(answer.result(PATIENCE)) == 2 for answer in answers)
    assert gated.batches == [["w2", "w3"]]


def test_a_running_request_is_cancelled_and_its_answer_dropped(gated, gallery):
    with BatchingRetriever(gated, max_delay_ms=FOREVER, max_batch=2) as batching:
        cancelled, other = batching.submit("w1", gallery, 2), batching.submit("w2", gallery, 2)
        assert gated.begun.acquire(timeout=PATIENCE)
        assert cancelled.cancel()
        with pytest.raises(CancelledError):
            cancelled.result(PATIENCE)
        gated.go.set()
        assert len(other.result(PATIENCE)) == 2


def test_a_finished_request_keeps_its_answer(retriever, gallery):
    with BatchingRetriever(retriever) as batching:
        answer = batching.submit("w1", gallery, 2)
        hits = answer.result(PATIENCE)
        assert not answer.cancel() and answer.result() == hits


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, even if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="a signal for one thread needs POSIX")
def test_a_search_that_is_interrupted_frees_its_place(gated, gallery, ctrl_c):
    with BatchingRetriever(gated, max_delay_ms=FOREVER, max_queue=2) as batching:
        interrupt = threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            batching.search("w1", gallery, 2)
        interrupt.join()
        gated.go.set()
        answers = [batching.submit(f"w{n}", gallery, 2) for n in (2, 3)]
        assert all(len(answer.result(PATIENCE)) == 2 for answer in answers)
    assert gated.batches == [["w2", "w3"]]


def test_an_asyncio_task_that_is_cancelled_frees_its_place(gated, gallery):
    async def cancel_one(batching):
        task = asyncio.create_task(batching.asearch("w1", gallery, 2))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batching.asearch("w2", gallery, 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        accepted = asyncio.create_task(batching.asearch("w3", gallery, 2))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(accepted), 0.05)
        gated.go.set()
        assert len(await accepted) == 2

    with BatchingRetriever(gated, max_delay_ms=0, max_queue=1) as batching:
        run_one(batching, gated, gallery)
        asyncio.run(cancel_one(batching))
    assert gated.batches == [["w0"], ["w3"]]


def test_closing_answers_accepted_requests_and_refuses_new_ones(gated, gallery):
    batching = BatchingRetriever(gated, max_delay_ms=FOREVER, max_batch=1)
    answers = [run_one(batching, gated, gallery), *(batching.submit(f"w{n}", gallery, 2) for n in range(1, 4))]
    closers = [threading.Thread(target=batching.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    with pytest.raises(Closed, match="make a new one"):
        while True:  # until one of the threads gets there
            answers.append(batching.submit("w9", gallery, 2))
            time.sleep(0.001)
    assert all(closer.is_alive() for closer in closers)
    gated.go.set()
    for closer in closers:
        closer.join(PATIENCE)
        assert not closer.is_alive()
    assert all(len(answer.result(0)) == 2 for answer in answers)
    batching.close()


@pytest.mark.parametrize("delay", [FOREVER, 1e300])
def test_closing_ends_the_batching_delay(retriever, gallery, delay):
    batching = BatchingRetriever(retriever, max_delay_ms=delay)
    answer = batching.submit("w1", gallery, 2)
    batching.close()
    assert len(answer.result(0)) == 2


def test_closing_may_cancel_waiting_requests(gated, gallery):
    batching = BatchingRetriever(gated, max_delay_ms=0)
    running, waiting = run_one(batching, gated, gallery), batching.submit("w1", gallery, 2, timeout=PATIENCE)
    closer = threading.Thread(target=batching.close, kwargs={"cancel": True})
    closer.start()
    with pytest.raises(CancelledError):
        waiting.result(PATIENCE)
    gated.go.set()
    closer.join(PATIENCE)
    assert len(running.result(0)) == 2 and gated.batches == [["w0"]]


def test_one_dropped_without_closing_answers_and_ends(retriever, gallery):
    batching = BatchingRetriever(retriever, max_delay_ms=FOREVER)
    answer, threads, forgotten = batching.submit("w1", gallery, 2), batching._threads, weakref.ref(batching)
    del batching
    gc.collect()
    assert forgotten() is None and len(answer.result(PATIENCE)) == 2
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["caan-batches", "caan-deadlines"])
def test_a_dying_thread_leaves_no_caller_waiting(gated, gallery, name):
    batching = BatchingRetriever(gated, max_delay_ms=0)
    answers = [run_one(batching, gated, gallery), batching.submit("w1", gallery, 2)]
    # Its deadline wakes the thread that should die.
    answers.append(batching.submit("w2", gallery, 2, timeout=0.5))
    (thread,) = [thread for thread in batching._threads if thread.name == name]
    assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit)) == 1
    if name == "caan-batches":
        gated.go.set()
    for answer in answers:
        with pytest.raises(Closed, match="died"):
            answer.result(PATIENCE)
    with pytest.raises(Closed, match="make a new BatchingRetriever"):
        batching.search("w1", gallery, 2)
    gated.go.set()
    batching.close()
