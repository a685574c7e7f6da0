"""Kept libraries as first stages: the cheapest setting with a recall, and packages that may be missing."""

import numpy as np
import pytest

from caan.bench.rivals import Stage, faiss_stages, lancedb_stage, reaching

QUERIES = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
ITEMS = np.random.default_rng(1).standard_normal((300, 16)).astype(np.float32)
EXACT = QUERIES @ ITEMS.T


def best(query, n):
    return np.argsort(-(ITEMS @ query), kind="stable")[:n]


def test_the_first_number_of_candidates_with_the_recall():
    stage = Stage("s", 0.0, 1, {"good": best, "blind": lambda query, n: np.arange(n)})
    found = reaching(stage, QUERIES, EXACT, 0.99)
    assert (found.setting, found.candidates, found.recall) == ("good", 10, 1.0)
    assert found.milliseconds > 0
    assert reaching(Stage("s", 0.0, 1, {"": lambda query, n: np.arange(3)}), QUERIES, EXACT, 0.5) is None


@pytest.mark.parametrize("library", ["faiss", "lancedb"])
def test_a_library_finds_what_it_is_asked_for(tmp_path, library):
    pytest.importorskip(library, reason="pip install --group rivals")
    stages = faiss_stages(ITEMS) if library == "faiss" else [lancedb_stage(ITEMS, tmp_path)]
    for stage in stages:
        assert stage.bytes > 0 and stage.build_seconds > 0
        assert reaching(stage, QUERIES, EXACT, 0.9) is not None
