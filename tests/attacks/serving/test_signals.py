"""A signal handler that raises at any moment of a call in the main thread: nothing may hang or leak its place."""

import subprocess
import sys
import textwrap

import pytest

PATIENCE = 120  # seconds until a test that hangs fails

PROGRAM = """
    import signal, sys, threading, time
    import numpy as np
    from caan.errors import Overloaded
    from caan.runtime import BatchingRetriever, Retriever, ServingMetrics

    class Interrupted(Exception):
        pass

    def interrupt(number, frame):
        raise Interrupted

    retriever = Retriever.open(sys.argv[1], "onnxruntime", threads=1)
    gallery = retriever.encode_images(np.ones((4, 5, 12), np.float32))
    metrics = ServingMetrics()
    signal.signal(signal.SIGALRM, interrupt)
    interrupted = answered = 0
    with BatchingRetriever(retriever, max_delay_ms=1, max_batch=4, max_queue=8, metrics=metrics) as batching:
        calls = {
            "search": lambda: batching.search("w1 w2", gallery, 2, timeout=20),
            "submit": lambda: batching.submit("w1 w2", gallery, 2),
            "cancel": lambda: batching.submit("w1 w2", gallery, 2).cancel(),
        }
        generator = np.random.default_rng(0)
        until = time.monotonic() + float(sys.argv[3])
        while time.monotonic() < until:
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 10 ** float(generator.uniform(-5, -1)))
                    calls[sys.argv[2]]()
                    answered += 1
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except (Interrupted, Overloaded):
                interrupted += 1
        # All places are free again, and requests are answered.
        time.sleep(0.5)
        answers = [batching.submit("w1", gallery, 2) for _ in range(8)]
        assert all(len(answer.result(60)) == 2 for answer in answers)
    assert metrics.registry.get_sample_value("caan_search_queue_depth") == 0
    print(interrupted > 10, answered > 3)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX timers")
@pytest.mark.parametrize("call", ["search", "submit", "cancel"])
def test_handlers_that_raise(tiny_folder, call):
    program = textwrap.dedent(PROGRAM)
    command = [sys.executable, "-c", program, str(tiny_folder / "model.caan"), call, "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr
