"""Results of a BatchingRetriever: each caller gets those of a single search, whatever else is in the batch."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from caan.errors import CaanWarning, DataError, InputError, MissingError
from caan.runtime import BatchingRetriever, ServingMetrics

WORDS = [f"w{number}" for number in range(20)]
TOLERANCE = 1e-5
FOREVER = 60_000.0  # ms: a batch starts only when full


class Recorded:
    """A Retriever that records its batches, and fails if `fails(queries)` returns an error."""

    def __init__(self, retriever, fails=lambda queries: None):
        self.backend, self.batches = retriever.backend, []
        self._retriever, self._fails = retriever, fails

    def search_many(self, queries, gallery, k):
        self.batches.append(queries)
        error = self._fails(queries)
        if error is not None:
            raise error
        return self._retriever.search_many(queries, gallery, k)


@pytest.fixture(scope="module")
def galleries(retriever):
    """Two of images, two of captions."""
    generator = np.random.default_rng(1)
    images = [retriever.encode_images(generator.standard_normal((n, 5, 12)).astype(np.float32)) for n in (6, 20)]
    captions = [retriever.encode_captions([list(generator.choice(WORDS, 4)) for _ in range(n)]) for n in (3, 15)]
    return [*images, *captions]


def query_for(gallery, seed):
    generator = np.random.default_rng(seed)
    if gallery.kind == "image":
        return list(generator.choice(WORDS, generator.integers(1, 12)))
    return generator.standard_normal((generator.integers(1, 9), 12)).astype(np.float32)


def assert_same(hits, expected):
    """The same scores in the same order, and the same items up to ties."""
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=TOLERANCE)
    every = {hit.index: hit.score for hit in expected}
    assert len({hit.index for hit in hits}) == len(hits)
    for hit in hits:
        tied_with_the_last = expected[-1].score
        assert hit.score == pytest.approx(every.get(hit.index, tied_with_the_last), abs=TOLERANCE)


def outcomes(metrics):
    (family,) = [f for f in text_string_to_metric_families(metrics.text()) if f.name == "caan_search_requests"]
    counts = {sample.labels["outcome"]: sample.value for sample in family.samples if sample.name.endswith("_total")}
    return {outcome: count for outcome, count in counts.items() if count}


def sample(metrics, name):
    return metrics.registry.get_sample_value(name)


requests = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=24)


@given(requests, st.integers(1, 9), st.sampled_from([0, 1, 3]), st.integers(1, 8))
def test_any_mixture_of_requests_gives_each_its_own_answer(retriever, galleries, requests, max_batch, delay, callers):
    with (
        BatchingRetriever(retriever, max_delay_ms=delay, max_batch=max_batch) as batching,
        ThreadPoolExecutor(callers) as threads,
    ):

        def ask(request):
            number, seed, k = request
            gallery = galleries[number]
            return batching.search(query_for(gallery, seed), gallery, min(k, len(gallery)))

        for (number, seed, k), hits in zip(requests, threads.map(ask, requests), strict=True):
            gallery = galleries[number]
            assert_same(hits, retriever.search(query_for(gallery, seed), gallery, min(k, len(gallery))))


def test_requests_share_a_batch_whatever_their_k(retriever, galleries):
    recorded = Recorded(retriever)
    with BatchingRetriever(recorded, max_delay_ms=FOREVER, max_batch=5) as batching:
        answers = [batching.submit(query_for(galleries[1], k), galleries[1], k) for k in range(1, 6)]
        for k, answer in enumerate(answers, 1):
            assert_same(answer.result(60), retriever.search(query_for(galleries[1], k), galleries[1], k))
    assert [len(batch) for batch in recorded.batches] == [5]


def test_a_batch_starts_when_its_oldest_request_has_waited(retriever, galleries):
    recorded = Recorded(retriever)
    with BatchingRetriever(recorded, max_delay_ms=500) as batching:
        for answer in [batching.submit(query_for(galleries[0], n), galleries[0], 1) for n in range(3)]:
            answer.result(60)
    assert [len(batch) for batch in recorded.batches] == [3]


def test_galleries_and_kinds_do_not_mix(retriever, galleries):
    recorded = Recorded(retriever)
    with BatchingRetriever(recorded, max_delay_ms=FOREVER, max_batch=2) as batching:
        answers = [batching.submit(query_for(g, n), g, 2) for n in range(2) for g in galleries]
        for answer in answers:
            answer.result(60)
    assert [len(batch) for batch in recorded.batches] == [2, 2, 2, 2]


def test_a_full_queue_does_not_wait_for_requests_it_would_refuse(retriever, galleries):
    with BatchingRetriever(retriever, max_delay_ms=FOREVER, max_batch=10, max_queue=2) as batching:
        answers = [batching.submit(query_for(galleries[0], n), galleries[0], 1) for n in range(2)]
        assert [len(answer.result(60)) for answer in answers] == [1, 1]


@pytest.mark.parametrize(
    ("query", "k"),
    [("", 1), ([], 1), ("zebra", 1), ("caf\udce9", 1), ("w1", 0), ("w1", 7), (np.ones((5, 12), np.float32), 1)],
)
def test_a_bad_caption_is_refused_before_it_waits(retriever, galleries, query, k):
    recorded, metrics = Recorded(retriever), ServingMetrics()
    with BatchingRetriever(recorded, metrics=metrics) as batching:
        with pytest.raises(DataError) as refused:
            batching.submit(query, galleries[0], k)
        with pytest.raises(DataError) as alone:
            retriever.search(query, galleries[0], k)
    assert str(refused.value) == str(alone.value)
    assert recorded.batches == [] and outcomes(metrics) == {"invalid": 1}


@pytest.mark.parametrize("shape", [(5, 11), (0, 12), (5,), (1, 5, 12), (600, 12)])
def test_bad_features_are_refused_before_they_wait(retriever, galleries, shape):
    recorded = Recorded(retriever)
    with BatchingRetriever(recorded) as batching, pytest.raises(DataError):
        batching.submit(np.ones(shape, np.float32), galleries[2], 1)
    assert recorded.batches == []


def test_a_long_caption_is_cut_with_one_warning_that_points_at_the_caller(retriever, galleries):
    caption = ["w1", *["w2", "w3"] * 100]
    with pytest.warns(CaanWarning):
        expected = retriever.search(caption, galleries[1], 5)
    with BatchingRetriever(retriever) as batching:

        async def in_asyncio():
            return await batching.asearch(caption, galleries[1], 5)

        for ask in (
            lambda: batching.search(caption, galleries[1], 5),
            lambda: batching.submit(caption, galleries[1], 5).result(60),
            lambda: asyncio.run(in_asyncio()),
        ):
            with pytest.warns(CaanWarning, match="longer than") as caught:
                assert_same(ask(), expected)
            assert [warning.filename for warning in caught] == [__file__]


def test_a_query_modified_while_it_waits_is_searched_unmodified(retriever, galleries):
    features, words = query_for(galleries[3], 1), ["w1", "w2"]
    expected = retriever.search(features, galleries[3], 3), retriever.search(words, galleries[1], 3)
    with BatchingRetriever(retriever, max_delay_ms=FOREVER) as batching:
        answers = batching.submit(features, galleries[3], 3), batching.submit(words, galleries[1], 3)
        features[:], words[:] = 1.0, ["w9"]
        batching.close()
        for answer, hits in zip(answers, expected, strict=True):
            assert_same(answer.result(60), hits)


@pytest.mark.parametrize("poisoned", [{0}, {7}, {2, 3}, {0, 5, 7}, set(range(8))])
def test_only_the_failing_requests_fail(retriever, galleries, poisoned):
    metrics = ServingMetrics()
    with BatchingRetriever(retriever, max_delay_ms=FOREVER, max_batch=8, metrics=metrics) as batching:
        queries = [query_for(galleries[3], n) for n in range(8)]
        for n in poisoned:
            queries[n][0, 0] = np.nan
        answers = [batching.submit(query, galleries[3], 4) for query in queries]
        for n, answer in enumerate(answers):
            if n in poisoned:
                with pytest.raises(DataError, match="NaN"):
                    answer.result(60)
            else:
                assert_same(answer.result(60), retriever.search(queries[n], galleries[3], 4))
    count = {"answered": 8 - len(poisoned), "failed": len(poisoned)}
    assert outcomes(metrics) == {outcome: number for outcome, number in count.items() if number}


def test_a_batch_too_large_for_the_memory_is_answered_in_parts(retriever, galleries):
    recorded = Recorded(retriever, lambda queries: MemoryError() if len(queries) > 2 else None)
    with BatchingRetriever(recorded, max_delay_ms=FOREVER, max_batch=7) as batching:
        answers = [batching.submit(query_for(galleries[0], n), galleries[0], 3) for n in range(7)]
        for n, answer in enumerate(answers):
            assert_same(answer.result(60), retriever.search(query_for(galleries[0], n), galleries[0], 3))


def test_a_failing_backend_fails_all_requests_and_may_recover(retriever, galleries):
    errors = [RuntimeError("the device is gone")]
    recorded = Recorded(retriever, lambda queries: errors[0] if errors else None)
    with BatchingRetriever(recorded, max_delay_ms=FOREVER, max_batch=6) as batching:
        for answer in [batching.submit(query_for(galleries[0], n), galleries[0], 3) for n in range(6)]:
            with pytest.raises(RuntimeError, match="the device is gone"):
                answer.result(60)
        errors.clear()
        answers = [batching.submit("w1 w2", galleries[0], 3) for _ in range(6)]
        assert_same(answers[0].result(60), retriever.search("w1 w2", galleries[0], 3))


def test_a_hundred_asyncio_tasks_share_batches_without_blocking_the_loop(retriever, galleries):
    recorded = Recorded(retriever)

    async def ask_all(batching):
        async def one(n):
            gallery = galleries[n % 4]
            return await batching.asearch(query_for(gallery, n), gallery, 3)

        tasks = [asyncio.create_task(one(n)) for n in range(100)]
        ticks = 0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            ticks += 1
        return [task.result() for task in tasks], ticks

    with BatchingRetriever(recorded, max_delay_ms=100, max_queue=100) as batching:
        answers, ticks = asyncio.run(ask_all(batching))
    for n, hits in enumerate(answers):
        assert_same(hits, retriever.search(query_for(galleries[n % 4], n), galleries[n % 4], 3))
    assert len(recorded.batches) < 50 and ticks > 1


def test_a_callback_that_would_wait_for_itself_gets_an_error(retriever, galleries):
    refused, called = [], threading.Event()
    with BatchingRetriever(retriever, max_delay_ms=200) as batching:

        def ask_again(_):
            try:
                batching.search("w1", galleries[0], 1)
            except InputError as error:
                refused.append(str(error))
            called.set()

        batching.submit("w1", galleries[0], 1).add_done_callback(ask_again)
        assert called.wait(60)
    assert len(refused) == 1 and "submit()" in refused[0]


@pytest.mark.parametrize(
    "limits", [{"max_delay_ms": -1}, {"max_delay_ms": float("nan")}, {"max_batch": 0}, {"max_queue": 0}]
)
def test_invalid_limits_are_refused(retriever, limits):
    with pytest.raises(InputError, match="max_delay_ms must be 0 or more"):
        BatchingRetriever(retriever, **limits)


def test_the_metrics_count_outcomes(retriever, galleries):
    metrics = ServingMetrics()
    with BatchingRetriever(retriever, max_delay_ms=FOREVER, max_batch=3, metrics=metrics) as batching:
        for answer in [batching.submit("w1", galleries[0], 2) for _ in range(3)]:
            answer.result(60)
        waiting = [batching.submit("w2", galleries[0], 2) for _ in range(2)]
        assert sample(metrics, "caan_search_queue_depth") == 2
        waiting[0].cancel()
        assert sample(metrics, "caan_search_queue_depth") == 1
    assert sample(metrics, "caan_search_queue_depth") == 0
    assert outcomes(metrics) == {"answered": 4, "cancelled": 1}
    assert sample(metrics, "caan_search_batch_size_sum") == 4 and sample(metrics, "caan_search_batch_size_count") == 2
    assert sample(metrics, "caan_search_queue_seconds_count") == 4 == sample(metrics, "caan_search_seconds_count")


def test_metrics_go_to_the_callers_registry_once():
    registry = CollectorRegistry()
    assert "caan_search_seconds_bucket" in ServingMetrics(registry).text()
    with pytest.raises(InputError, match="same ServingMetrics"):
        ServingMetrics(registry)


def test_metrics_without_prometheus_client_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingError, match=r"\[metrics\]"):
        ServingMetrics()
