"""With several server processes, each returns the sums over all, by prometheus-client's multiprocess mode."""

import os
import subprocess
import sys

import pytest

SERVER = """
import sys
import numpy as np
from caan.runtime import BatchingRetriever, Retriever, ServingMetrics

metrics = ServingMetrics()
retriever = Retriever.open(sys.argv[1], "onnxruntime", threads=1)
gallery = retriever.encode_images(np.ones((3, 5, 12), np.float32))
with BatchingRetriever(retriever, metrics=metrics) as batching:
    for _ in range(int(sys.argv[2])):
        batching.search("w1 w2", gallery, 2)
    print("ready", flush=True)
    sys.stdin.readline()
    print(metrics.text())
"""


def value(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.rpartition(" ")[2])


def serve(bundle, searches, environment):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-c", SERVER, str(bundle), str(searches)], env={**os.environ, **environment}, **pipes
    )


@pytest.mark.parametrize("multiprocess", [True, False])
def test_two_processes_are_scraped_as_one(tiny_folder, tmp_path, multiprocess):
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if multiprocess else {}
    servers = [serve(tiny_folder / "model.caan", searches, environment) for searches in (3, 4)]
    try:
        for server in servers:
            assert server.stdout.readline() == "ready\n"
        texts = [server.communicate("\n", timeout=60)[0] for server in servers]
    finally:
        for server in servers:
            server.kill()
    answered = [value(text, 'caan_search_requests_total{outcome="answered"}') for text in texts]
    batches = [value(text, "caan_search_seconds_count") for text in texts]
    expected = [7.0, 7.0] if multiprocess else [3.0, 4.0]
    assert answered == batches == expected
    assert [value(text, "caan_search_queue_depth") for text in texts] == [0.0, 0.0]
    assert not multiprocess or list(tmp_path.glob("counter_*.db"))
