"""close() from a future's callback, while other requests are open: it must not wait for its own thread."""

import threading

import numpy as np
import pytest

from caan.errors import Closed, DeadlineExceeded
from caan.runtime import BatchingRetriever

PATIENCE = 60  # seconds until a test that hangs fails
FOREVER = 60_000.0  # ms


@pytest.fixture
def gallery(retriever):
    return retriever.encode_images(np.ones((6, 5, 12), np.float32))


def test_in_the_thread_that_scores(retriever, gallery):
    batching = BatchingRetriever(retriever, max_delay_ms=FOREVER, max_batch=2)
    first, _, third = (batching.submit(f"w{n}", gallery, 2) for n in range(3))
    first.add_done_callback(lambda _: batching.close())
    # Done before the callback was there? Then this thread has closed it.
    assert len(third.result(PATIENCE)) == 2
    with pytest.raises(Closed):
        batching.search("w1", gallery, 2)
    for thread in batching._threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_in_the_thread_that_watches_deadlines(retriever, gallery):
    closed = threading.Event()
    batching = BatchingRetriever(retriever, max_delay_ms=FOREVER)
    hasty, other = batching.submit("w1", gallery, 2, timeout=0.2), batching.submit("w2", gallery, 2)

    def close(_):
        batching.close()
        closed.set()

    hasty.add_done_callback(close)
    with pytest.raises(DeadlineExceeded):
        hasty.result(PATIENCE)
    assert closed.wait(PATIENCE) and len(other.result(PATIENCE)) == 2
    batching.close()


def test_in_the_thread_that_cancels(retriever, gallery):
    batching = BatchingRetriever(retriever, max_delay_ms=FOREVER)
    cancelled, other = batching.submit("w1", gallery, 2), batching.submit("w2", gallery, 2)
    cancelled.add_done_callback(lambda _: batching.close())
    closer = threading.Thread(target=cancelled.cancel)
    closer.start()
    closer.join(PATIENCE)
    assert not closer.is_alive() and len(other.result(0)) == 2
