"""Log lines for a server's operator, and the commands' unchanged output."""

import logging
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from caan.errors import DeadlineExceeded, Overloaded
from caan.runtime import BatchingRetriever, Gallery, Retriever, serving
from caan.runtime.serving import request_log
from caan.runtime.serving.request_log import RequestLog


@pytest.fixture
def lines(caplog):
    """lines(logger, level): the messages logged so far."""
    caplog.set_level(logging.DEBUG, logger="caan")

    def call(logger, level="INFO"):
        return [r.getMessage() for r in caplog.records if r.name.startswith(logger) and r.levelname == level]

    return call


@pytest.fixture
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1)


@pytest.fixture
def gallery(retriever):
    return retriever.encode_images(np.ones((4, 5, 12), np.float32))


class Slow:
    """A Retriever that is slow or fails."""

    def __init__(self, retriever, seconds=0.0, error=None):
        self.backend, self._retriever, self._seconds, self._error = retriever.backend, retriever, seconds, error

    def search_many(self, queries, gallery, k):
        time.sleep(self._seconds)
        if self._error is not None:
            raise self._error
        return self._retriever.search_many(queries, gallery, k)


def test_an_opened_bundle_says_its_backend_and_why_auto_took_it(tiny_folder, lines):
    opened = Retriever.open(tiny_folder / "model.caan")
    (chosen,) = [line for line in lines("caan.runtime") if line.startswith("auto chose")]
    assert chosen.startswith(f"auto chose {opened.backend.name}: ")
    (line,) = [line for line in lines("caan.runtime") if line.startswith("opened ")]
    assert line == f"opened {tiny_folder / 'model.caan'}: backend {opened.backend.name}, precision fp32, device cpu"


def test_galleries_that_are_opened_and_changed(retriever, lines, tmp_path):
    folder = tmp_path / "gallery"
    gallery = Gallery.create(folder, retriever, np.ones((4, 5, 12), np.float32))
    gallery.append(retriever, np.ones((2, 5, 12), np.float32)).delete([0, 1]).compact_storage()
    expected = ["wrote 4 images", "appended 2 images", "deleted 2 items, 4 are left", "compacted to 4 items, "]
    logged = lines("caan.runtime")
    for text in expected:
        assert [line for line in logged if line.startswith(f"{folder}: {text}")], (text, logged)
    assert f"opened {folder}: 6 images, float16, mapped" in logged


def test_tuning_says_when_it_starts_and_what_it_chose(retriever, gallery, lines):
    tuned = Retriever(retriever.backend)
    tuned.tune(gallery)
    logged = lines("caan.runtime")
    assert "tuning onnxruntime started" in logged
    assert any(
        re.match(r"tuning ended after \d+\.\d s: queries .* MiB tiles.*; many pairs .*", line) for line in logged
    )


def test_refused_late_and_slow_requests(retriever, gallery, lines):
    with BatchingRetriever(Slow(retriever, 0.2), max_delay_ms=0, max_batch=1, max_queue=1, slow_ms=100) as batching:
        first = batching.submit("w1", gallery, 2)
        time.sleep(0.05)
        late = batching.submit("w1", gallery, 2, timeout=0.01)
        for _ in range(2):
            with pytest.raises(Overloaded):
                batching.search("w2", gallery, 2)
        with pytest.raises(DeadlineExceeded):
            late.result(10)
        first.result(10)
    logged = lines("caan.runtime.serving", "WARNING")
    assert len(logged) == 3  # the second refusal waits for the next line of its kind
    assert logged[0].startswith("request refused: 1 requests are waiting")
    assert logged[1] == "no answer within the timeout: 1 requests"
    assert re.fullmatch(r"slow request: 0\.\d\d s, 0\.\d\d s in the queue, batch of 1, 4 items", logged[2])


def test_a_failure_has_a_traceback_unless_it_is_one_of_caan_s(retriever, gallery, lines, caplog):
    for error, has_traceback in ((ZeroDivisionError("a bug"), True), (Overloaded("known"), False)):
        caplog.clear()
        with BatchingRetriever(Slow(retriever, error=error)) as batching, pytest.raises(type(error)):
            batching.search("w1", gallery, 2)
        (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert record.getMessage() == f"request failed: {error}" and (record.exc_info is not None) == has_traceback


def test_a_flood_logs_one_line_per_ten_seconds(lines):
    now = [0.0]
    log = RequestLog(None, clock=lambda: now[0])
    for _ in range(1000):
        log.refused(Overloaded("full"))
        log.answered(1e6, 0, 1, 1)  # slow_ms=None: nothing is slow
    now[0] = 11.0
    log.refused(Overloaded("full"))
    assert lines("caan.runtime.serving", "WARNING") == [
        "request refused: full",
        "request refused: full (and 999 more since the last such line)",
    ]


def test_a_line_interrupted_by_a_signal_handler_never_deadlocks(monkeypatch, lines):
    log = RequestLog(None)

    def interrupted():
        monkeypatch.setattr(log, "_clock", lambda: 0.0)
        log.refused(Overloaded("from the handler"))
        return 0.0

    monkeypatch.setattr(log, "_clock", interrupted)
    log.refused(Overloaded("first"))
    assert lines("caan.runtime.serving", "WARNING") == ["request refused: from the handler"]


def test_nothing_is_printed_without_a_handler(tiny_folder, tmp_path):
    """Neither by an application without logging configuration, nor by a command beyond its usual output."""
    shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan")
    np.save(tmp_path / "features.npy", np.ones((3, 5, 12), np.float32))
    program = (
        "import logging, caan.runtime\n"
        "logging.getLogger('caan.runtime.serving').critical('for the log')\n"
        "from caan.cli import main\n"
        "main(['index', 'model.caan', 'features.npy', '-o', 'gallery'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "gallery: 3 images\n")
    assert "for the log" not in done.stderr and "opened" not in done.stderr


def test_loggers_are_named_after_the_modules():
    assert request_log._log.name == "caan.runtime.serving.request_log"
    assert serving.__name__ == "caan.runtime.serving"
