"""The overload bench: how its ratios are computed."""

import time

import numpy as np

from caan.bench.overload import LOADS, measure_overload
from caan.runtime import Retriever

CALL = 0.01  # seconds of a batch, however large


class KnownSpeed(Retriever):
    def search_many(self, *arguments):
        time.sleep(CALL)
        return super().search_many(*arguments)


def test_goodput_is_a_share_of_what_full_batches_reach(tiny_folder):
    retriever = KnownSpeed(Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1).backend)
    gallery = retriever.encode_images(np.random.default_rng(0).standard_normal((12, 5, 12)).astype(np.float32))
    result = measure_overload(retriever, gallery, ["w1 w2", "w3"], seconds=0.3, rounds=1)
    assert 0 < result.capacity <= 32 / CALL
    assert result.timeout > 0 and tuple(result.goodput) == LOADS
    # The machine may be busy: the bounds are wide.
    assert all(0 < share < 5 for share in result.goodput.values())
