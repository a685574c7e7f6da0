"""Python threads and a scorer: it releases the GIL, and threads may share it."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def test_other_threads_run_while_it_scores(caan_native, draw):
    case = draw(embed_dim=256, attention_dim=256, image_lengths=(36,) * 60, text_lengths=(14,) * 60)
    scorer, scores = case.scorer(caan_native), np.empty((60, 60), np.float32)
    inside, rounds, done = threading.Event(), 0, threading.Event()

    def score():
        inside.set()
        scorer.score(*case.states(), scores)
        done.set()

    thread = threading.Thread(target=score)
    thread.start()
    inside.wait()
    # If the GIL were held, this thread would run only after the call, or in the few moments around it.
    while not done.is_set():
        rounds += 1
        threading.Event().wait(0.001)
    thread.join()
    assert rounds > 5


def test_16_threads_at_once(caan_native, draw):
    case = draw(embed_dim=33, attention_dim=20, image_lengths=(36, 1, 7, 12), text_lengths=(14, 3, 1, 20, 9))
    expected = case.scores(caan_native)
    scorer, start = case.scorer(caan_native, threads=2), threading.Barrier(16)

    def score(thread):
        start.wait()
        wrong = 0
        for _ in range(50):
            scores = np.full_like(expected, np.nan)
            scorer.score(*case.states(), scores)
            wrong += not np.array_equal(scores, expected)
        return wrong

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(score, range(16))) == 0


def test_a_forked_process_ends_without_waiting_for_its_parents_threads(caan_native):
    code = (
        "import os, numpy as np, caan_native\n"
        "w = np.ones(8, np.float32)\n"
        "scorer = caan_native.Scorer(8, 8, 1.0, w, w, 'fp32', 3)\n"
        "if os.fork() == 0:\n"
        "    del scorer\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "7", result.stderr


def test_a_forked_process_scores_with_threads_of_its_own(caan_native):
    code = (
        "import os, signal, numpy as np, caan_native\n"
        "w, rows = np.ones(8, np.float32), np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)\n"
        "where = np.arange(60), np.ones(60, np.int64)\n"
        "scorer = caan_native.Scorer(8, 8, 1.0, w, w, 'fp32', 3)\n"
        "def score():\n"
        "    scores = np.empty((60, 60), np.float32)\n"
        "    scorer.score(rows, *where, np.ascontiguousarray(rows[:, :32]), *where, scores)\n"
        "    return scores\n"
        "expected = score()\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(30)\n"
        "    os._exit(7 if (score() == expected).all() else 8)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "7", result.stderr
