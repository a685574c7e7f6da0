"""A BatchingRetriever in a process that forks, or exits without closing it."""

import subprocess
import sys
import textwrap

import pytest

PATIENCE = 60  # seconds until a hanging test fails

PROGRAM = """
    import os, signal, sys, threading, time
    import numpy as np
    from caan.errors import Closed
    from caan.runtime import BatchingRetriever, Retriever
    from caan.runtime.serving import batching as module

    retriever = Retriever.open(sys.argv[1], "onnxruntime", threads=1)
    gallery = retriever.encode_images(np.ones((4, 5, 12), np.float32))
    begun = threading.Event()

    class Slow:
        backend = retriever.backend
        def search_many(self, queries, gallery, k):
            begun.set()
            time.sleep({seconds})
            return retriever.search_many(queries, gallery, k)

    batching = BatchingRetriever(Slow(), max_delay_ms=0, max_batch=1)
    answers = [batching.submit("w1", gallery, 2, timeout=50) for _ in range(3)]
    begun.wait()
"""


def run_program(bundle, seconds, rest):
    program = textwrap.dedent(PROGRAM).format(seconds=seconds) + textwrap.dedent(rest)
    command = [sys.executable, "-c", program, str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def test_a_forked_child_gets_an_error_and_the_parent_continues(tiny_folder):
    if sys.platform == "win32":
        pytest.skip("there is no fork on Windows")
    rest = """
        def closed(call):
            try:
                call()
            except Closed as error:
                return "forked" in str(error)

        child = os.fork()
        if child == 0:
            signal.alarm(30)  # rather than hang forever
            refused = all(closed(answer.result) for answer in answers)
            refused = refused and closed(lambda: batching.search("w1", gallery, 2))
            batching.close()
            os._exit(0 if refused else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert [len(answer.result()) for answer in answers] == [2, 2, 2]
        print("fine")
    """
    done = run_program(tiny_folder / "model.caan", 0.5, rest)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


@pytest.mark.parametrize(("seconds", "patience"), [(0.5, 10.0), (1000, 0.2)])
def test_an_interpreter_exits_without_closing(tiny_folder, seconds, patience):
    done = run_program(tiny_folder / "model.caan", seconds, f"module._EXIT_SECONDS = {patience}")
    assert (done.returncode, done.stderr) == (0, "")
