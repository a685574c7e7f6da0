"""Many requests while another process appends, deletes, and is killed repeatedly, and galleries are reopened."""

import random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from caan.runtime import BatchingRetriever, Gallery, Retriever
from caan.runtime.index import Images, IndexOptions, index_items

CALLERS, QUERIES, PICTURES = 8, 12, 64
TOLERANCE = 2e-3  # states are float16

# Appends pictures whose features follow from their number, and deletes them again, until it is killed.
WRITER = """
    import random, sys
    from pathlib import Path
    import numpy as np
    from caan.errors import CaanError
    from caan.runtime import Gallery, Retriever
    from caan.runtime.index import Images, IndexOptions, delete_items, index_items

    bundle, folder, pictures = Path(sys.argv[1]), Path(sys.argv[2]), np.load(sys.argv[3])
    retriever = Retriever.open(bundle, "onnxruntime", threads=1)
    print("ready", flush=True)
    while True:
        there = Gallery.open(folder)
        gone = [name for name, dead in zip(there.ids, there.deleted) if dead] if there.deleted is not None else []
        live = [name for name in there.ids if name not in set(gone)]
        try:
            if len(there) < 1000 and random.random() < 0.6:
                serial = len(there)
                new = [f"{(serial + n) % len(pictures)}-{serial + n}" for n in range(3)]
                features = pictures[[int(name.split("-")[0]) for name in new]]
                options = IndexOptions(append=True)
                index_items(retriever, bundle, Images(retriever, features), folder, new, options)
            elif len(live) > 8:
                delete_items(folder, random.sample(live, 2))
        except CaanError as error:
            if "another process" not in str(error):
                raise
"""


def soak(tmp_path, bundle, requests):
    retriever = Retriever.open(bundle, "onnxruntime", threads=1)
    pictures = np.random.default_rng(0).standard_normal((PICTURES, 5, 12)).astype(np.float32)
    np.save(tmp_path / "pictures.npy", pictures)
    captions = [f"w{n} w{n + 1} w{(3 * n) % 20}" for n in range(QUERIES)]
    expected = retriever.score_matrix(retriever.encode_images(pictures), captions)  # (pictures, queries)
    folder = tmp_path / "gallery"
    first = [f"{n}-{n}" for n in range(16)]
    index_items(retriever, bundle, Images(retriever, pictures[:16]), folder, first, IndexOptions())

    galleries, wrong, answered, kills = [Gallery.open(folder)], [], [0] * CALLERS, 0
    done = threading.Event()

    def check(gallery, query, hits, k):
        gone = gallery.deleted if gallery.deleted is not None else np.zeros(len(gallery), bool)
        scores = expected[[int(name.split("-")[0]) for name in gallery.ids], query]
        best = np.sort(scores[~gone])[::-1][:k]
        actual = np.array([hit.score for hit in hits])
        assert len({hit.index for hit in hits}) == len(hits) == k
        assert not gone[[hit.index for hit in hits]].any()
        assert np.abs(actual - scores[[hit.index for hit in hits]]).max() < TOLERANCE
        assert np.abs(actual - best).max() < TOLERANCE

    def caller(number):
        generator = random.Random(number)
        try:
            while sum(answered) < requests:
                gallery, query, k = galleries[0], generator.randrange(QUERIES), generator.randrange(1, 7)
                check(gallery, query, batching.search(captions[query], gallery, k, timeout=60), k)
                answered[number] += 1
        except BaseException as error:
            wrong.append(error)
            done.set()

    program = [sys.executable, "-c", textwrap.dedent(WRITER), bundle, folder, tmp_path / "pictures.npy"]

    def start_writer():
        writer = subprocess.Popen([str(part) for part in program], stdout=subprocess.PIPE, text=True)
        writer.stdout.readline()  # the imports are over
        return writer

    generator = random.Random(1)
    writer = start_writer()
    with BatchingRetriever(retriever, max_delay_ms=1, max_queue=64) as batching:
        threads = [threading.Thread(target=caller, args=(n,)) for n in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads) and not done.is_set():
                time.sleep(generator.uniform(0.02, 0.2))
                galleries[0] = Gallery.open(folder)
                if generator.random() < 0.2:
                    assert writer.poll() is None, "the writer failed"
                    writer.send_signal(signal.SIGKILL)
                    writer.wait()
                    kills, writer = kills + 1, start_writer()
        finally:
            writer.kill()
            writer.wait()
            for thread in threads:
                thread.join()
    assert wrong == [] and sum(answered) >= requests
    return len(galleries[0]), kills


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_few_requests(tmp_path, tiny_folder):
    soak(tmp_path, tiny_folder / "model.caan", 300)


@pytest.mark.attack
@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_a_hundred_thousand_requests(tmp_path, tiny_folder):
    items, kills = soak(tmp_path, tiny_folder / "model.caan", 100_000)
    assert items > 16 and kills > 3
