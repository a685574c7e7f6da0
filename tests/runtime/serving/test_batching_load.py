"""A BatchingRetriever under load: correct answers, constant memory, and a bound on accepted requests' waits."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from caan.errors import Overloaded
from caan.runtime import BatchingRetriever, Retriever
from caan.tiling import DEFAULT_TILE_BYTES

THREADS, REQUESTS = 32, 500
MIB = 1 << 20

TILE, DELAY, BATCH = 0.04, 0.1, 8  # seconds per tile, here a whole batch; max_delay in seconds
BOUND = 3 * DELAY
# From BatchingRetriever's docstring, to answer an accepted request within BOUND.
QUEUE = BATCH * int((BOUND - DELAY) / TILE - 1)
OVERLOAD, DURATION = 10, 2.0  # times the capacity; seconds


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux, to read the resident memory")
def test_every_answer_is_right_and_memory_stays_flat(tiny_folder):
    program = Path(__file__).with_name("batching_stress.py")
    command = [sys.executable, program, tiny_folder / "model.caan", THREADS, REQUESTS]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # As many answers as requests, each computed once.
    assert (result["answered"], result["computed"], result["wrong"]) == (THREADS * REQUESTS, THREADS * REQUESTS, 0)
    assert result["grown"] < 20 * MIB


class KnownSpeed:
    """A backend whose tiles take TILE seconds longer than the real one's, which are negligible."""

    def __init__(self, backend):
        self._backend, self.scored_tiles = backend, 0

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def score_tiles(self, *arguments):
        for scores in self._backend.score_tiles(*arguments):
            time.sleep(TILE)
            self.scored_tiles += 1
            yield scores


def test_overload_is_refused_and_accepted_requests_keep_the_bound(tiny_folder):
    backend = KnownSpeed(Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1).backend)
    retriever = Retriever(backend, DEFAULT_TILE_BYTES)
    gallery = retriever.encode_images(np.random.default_rng(2).standard_normal((6, 5, 12)).astype(np.float32))
    per_second = OVERLOAD * BATCH / TILE
    total = int(DURATION * per_second)
    latencies, refused = [], 0

    with BatchingRetriever(retriever, max_delay_ms=1000 * DELAY, max_batch=BATCH, max_queue=QUEUE) as batching:
        start = time.monotonic()
        for number in range(total):
            # Requests arrive on schedule, independent of each other; late ones are sent immediately.
            time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            try:
                submit(batching, gallery, latencies)
            except Overloaded:
                refused += 1
        duration = time.monotonic() - start

    assert len(latencies) + refused == total
    # It was an overload, with full batches all the time.
    assert refused > total / 2
    assert len(latencies) >= 0.5 * duration * BATCH / TILE
    assert len(latencies) >= 0.9 * BATCH * (backend.scored_tiles - 1)
    # In a permanently full queue, a request waits for 5 tiles of 40 ms, 200 ms; BOUND and a tile are 340 ms. The
    # remaining 140 ms allow for a busy machine.
    assert np.percentile(latencies, 99) <= BOUND + TILE


def submit(batching, gallery, latencies):
    arrived = time.monotonic()
    answer = batching.submit("w1 w2 w3", gallery, 3)

    def done(answer):
        assert len(answer.result()) == 3
        latencies.append(time.monotonic() - arrived)

    answer.add_done_callback(done)
