"""Many threads send random requests to one BatchingRetriever: python batching_stress.py BUNDLE THREADS REQUESTS.

A process of its own, for its memory to be measured. Prints JSON: requests answered, answered wrongly, computed by the
Retriever, and by how many bytes the resident memory grew after a warm-up.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import psutil

from caan.runtime import BatchingRetriever, Retriever

WORDS = [f"w{number}" for number in range(20)]
TOLERANCE = 1e-5


class Counted:
    """A Retriever that counts its queries."""

    def __init__(self, retriever):
        self._retriever, self.backend, self.queries = retriever, retriever.backend, 0

    def search_many(self, queries, gallery, k):
        self.queries += len(queries)
        return self._retriever.search_many(queries, gallery, k)


def main(bundle, threads, requests):
    retriever = Retriever.open(bundle, "onnxruntime", threads=1)
    world = make_world(retriever, np.random.default_rng(0))
    counted = Counted(retriever)
    answered, wrong, lock = 0, 0, threading.Lock()
    with BatchingRetriever(counted, max_delay_ms=2) as batching:

        def caller(seed, number):
            nonlocal answered, wrong
            generator = np.random.default_rng(seed)
            for _ in range(number):
                query, gallery, scores = world[generator.integers(len(world))]
                k = int(generator.integers(1, len(scores) + 1))
                good = right(batching.search(query, gallery, k, timeout=120), scores, k)
                with lock:
                    answered, wrong = answered + 1, wrong + (not good)

        in_threads(caller, threads, max(1, requests // 5))
        before, answered, counted.queries = resident_bytes(), 0, 0
        in_threads(caller, threads, requests)
        grown = resident_bytes() - before
    print(json.dumps({"answered": answered, "wrong": wrong, "computed": counted.queries, "grown": grown}))


def make_world(retriever, generator):
    """(query, gallery, the query's score with every item of the gallery), for captions and images of random sizes."""
    galleries = [
        retriever.encode_images(generator.standard_normal((n, 6, 12)).astype(np.float32), generator.integers(1, 7, n))
        for n in (1, 25)
    ]
    galleries += [retriever.encode_captions([caption(generator) for _ in range(n)]) for n in (4, 60)]
    world = []
    for gallery in galleries:
        for _ in range(20):
            if gallery.kind == "image":
                query = caption(generator)
            else:
                query = generator.standard_normal((generator.integers(1, 9), 12)).astype(np.float32)
            hits = sorted(retriever.search(query, gallery, len(gallery)), key=lambda hit: hit.index)
            world.append((query, gallery, np.array([hit.score for hit in hits])))
    return world


def caption(generator):
    return " ".join(generator.choice(WORDS, generator.integers(1, 12)))


def right(hits, scores, k):
    """Whether these are the k best, best first, ties in any order."""
    indices, actual = [hit.index for hit in hits], np.array([hit.score for hit in hits])
    return (
        len(set(indices)) == len(hits) == k
        and np.abs(actual - scores[indices]).max() <= TOLERANCE
        and np.abs(actual - np.sort(scores)[::-1][:k]).max() <= TOLERANCE
    )


def in_threads(work, number, *arguments):
    threads = [threading.Thread(target=work, args=(seed, *arguments)) for seed in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def resident_bytes():
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
