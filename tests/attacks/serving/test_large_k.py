"""One request with a huge k among small ones: it does not slow the others."""

import numpy as np

from caan.runtime import BatchingRetriever

DELAY = 1_000.0  # ms: all six requests arrive within it


class Recorded:
    """A Retriever that records k and the number of queries of each call."""

    def __init__(self, retriever):
        self.backend, self._retriever, self.calls = retriever.backend, retriever, []

    def search_many(self, queries, gallery, k):
        self.calls.append((len(queries), k))
        return self._retriever.search_many(queries, gallery, k)


def test_it_is_ranked_by_itself(retriever):
    recorded = Recorded(retriever)
    gallery = retriever.encode_images(np.random.default_rng(0).standard_normal((600, 2, 12)).astype(np.float32))
    ks = [10, 600, 1, 127, 150, 255]
    with BatchingRetriever(recorded, max_delay_ms=DELAY, max_batch=6, max_queue=6) as batching:
        answers = [batching.submit(f"w{n}", gallery, k) for n, k in enumerate(ks)]
        results = [answer.result(60) for answer in answers]
    for number, (k, hits) in enumerate(zip(ks, results, strict=True)):
        alone = retriever.search(f"w{number}", gallery, k)
        np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in alone], atol=1e-5)
    # Those for fewer than 128 together, 600 alone, 150 and 255 together.
    assert sorted(recorded.calls) == [(1, 600), (2, 255), (3, 127)]
