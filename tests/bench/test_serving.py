"""The bench of concurrent callers: how its ratios are computed."""

import time

import numpy as np
import pytest

from caan.bench.serving import measure_serving
from caan.runtime import Retriever

CALL = 0.02  # seconds


class KnownSpeed(Retriever):
    """A Retriever whose calls take CALL seconds longer, however many queries they answer."""

    def search(self, *arguments):
        time.sleep(CALL)
        return super().search(*arguments)

    def search_many(self, *arguments):
        time.sleep(CALL)
        return super().search_many(*arguments)


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return KnownSpeed(Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1).backend)


def test_the_ratios_are_throughput_batched_to_throughput_of_the_other_way(retriever):
    features = np.random.default_rng(0).standard_normal((12, 5, 12)).astype(np.float32)
    galleries = retriever.encode_images(features), retriever.encode_images(features[:3])
    captions = [f"w{n} w{n + 1}" for n in range(8)]
    speed = measure_serving(retriever, *galleries, captions, k=2, rounds=3, few_rounds=3)
    assert (speed.callers, speed.images, speed.few_images) == (8, 12, 3)
    # One call for all eight against eight calls, and against one. The machine may be busy: bounds are wide.
    assert speed.against_one_by_one > 2
    assert 0.1 < speed.against_many < 3
    assert 0 < speed.queries_per_second <= 8 / CALL
