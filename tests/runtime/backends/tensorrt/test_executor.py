"""Copies, runs and results stay in step under every GPU ordering; repeated calls become CUDA graphs; executor pools.

The GPU is a stand-in (stand_in_gpu.py) whose streams run as late, as early and as mixed up as events allow.
"""

import random
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.bundle import open_bundle
from caan.errors import CaanError, InputError
from caan.runtime.backends.device_cache import DeviceCache
from caan.runtime.backends.tensorrt import choose_engine as engines
from caan.runtime.backends.tensorrt.cuda_graphs import CudaGraphs
from caan.runtime.backends.tensorrt.executor import Executor, ExecutorPool
from caan.runtime.backends.tensorrt.plans import load_plan
from caan.runtime.galleries.gallery import Gallery

IMAGE, TEXT = 41, 31  # state columns of the tiny model


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def plan(request, add_engine, tiny_bundle, trt):
    """The tiny model's scorer, up to 9 images × 1 caption or 3 × 4, as TensorRT loads it or TensorRT for RTX."""
    add_engine(target=request.param)
    bundle = open_bundle(tiny_bundle)
    return load_plan(trt, engines.engine_records(bundle)[0], bundle, "scorer", "8.6")


@pytest.fixture
def session(trt, plan):
    """The graph that the plan runs, in ONNX Runtime."""
    return trt.engines[-1].session


@pytest.fixture
def residents():
    return DeviceCache(lambda: 1 << 20)


@pytest.fixture
def executor(gpu, plan, residents):
    return Executor(gpu, plan, residents)


def call(generator, images, captions, regions=5, words=6):
    return {
        "image_states": generator.standard_normal((images, regions, IMAGE)).astype(np.float32),
        "image_lengths": generator.integers(1, regions + 1, images),
        "text_states": generator.standard_normal((captions, words, TEXT)).astype(np.float32),
        "text_lengths": generator.integers(1, words + 1, captions),
    }


def expected(session, calls):
    return [session.run(None, dict(one))[0] for one in calls]


def assert_equal(results, wanted):
    assert [a.shape for a in results] == [b.shape for b in wanted]
    assert max(np.abs(a - b).max() for a, b in zip(results, wanted, strict=True)) <= 1e-6


small = st.one_of(st.tuples(st.integers(1, 3), st.integers(1, 4)), st.tuples(st.integers(1, 9), st.just(1)))
lengths = st.tuples(st.integers(1, 5), st.integers(1, 12))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(small, lengths), min_size=1, max_size=12),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
)
def test_every_call_gets_its_own_scores_in_any_gpu_order(gpu, executor, session, calls, seed, eagerness):
    gpu.chance, gpu.eagerness = random.Random(seed), eagerness
    generator = np.random.default_rng(seed)
    requests = [call(generator, *items, *longest) for items, longest in calls]
    assert_equal(list(executor.run(requests)), expected(session, requests))


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2)), min_size=1, max_size=30),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_cached_tiles_score_as_if_they_were_sent(gpu, executor, session, steps, seed, eagerness):
    gpu.chance, gpu.eagerness = random.Random(seed), eagerness
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((9 * 5, IMAGE)).astype(np.float32)
    images = Gallery("image", "hash", states, np.arange(10) * 5)
    requests = []
    for tile, captions in steps:
        one = call(generator, 3, captions)
        one["image_states"], one["image_lengths"] = images.gather(np.arange(3 * tile, 3 * tile + 3))
        requests.append(one)
    assert_equal(list(executor.run(requests)), expected(session, requests))


def test_the_next_call_is_fetched_and_sent_while_the_first_one_runs(gpu, executor):
    fetched, generator = [], np.random.default_rng(0)

    def calls():
        for number in range(5):
            fetched.append(number)
            yield call(generator, 2, 2)

    results = executor.run(calls())
    next(results)
    assert fetched == [0, 1, 2]
    next(results)
    assert fetched == [0, 1, 2, 3]


def test_a_tile_is_sent_twice_then_cached(gpu, executor, session):
    generator = np.random.default_rng(0)
    states = generator.standard_normal((15, IMAGE)).astype(np.float32)
    image_states, image_lengths = Gallery("image", "hash", states, np.arange(4) * 5).gather(np.arange(3))
    sent = []
    for _ in range(4):
        before = gpu.uploaded
        one = {**call(generator, 3, 1), "image_states": image_states, "image_lengths": image_lengths}
        assert_equal(list(executor.run([one])), expected(session, [one]))
        sent.append(gpu.uploaded - before)
    rest = sum(one[name].nbytes for name in ("image_lengths", "text_states", "text_lengths"))
    assert sent == [rest + image_states.nbytes] * 2 + [rest] * 2


def test_an_evicted_tile_stays_until_runs_using_it_are_done(gpu, executor, residents, session):
    generator = np.random.default_rng(0)
    states = generator.standard_normal((15, IMAGE)).astype(np.float32)
    image_states, image_lengths = Gallery("image", "hash", states, np.arange(4) * 5).gather(np.arange(3))
    requests = [
        call(generator, 3, 1) | {"image_states": image_states, "image_lengths": image_lengths} for _ in range(6)
    ]

    def calls():
        for one in requests:
            yield one
            residents.clear()

    for _ in range(2):
        list(executor.run(requests[:1]))
    assert residents.find(image_states) is not None
    assert_equal(list(executor.run(calls())), expected(session, requests))


def test_a_tile_being_sent_by_another_executor_is_waited_for(gpu, plan, residents, session, monkeypatch):
    # The newest stream always runs first, so uploads wait until nothing else is left.
    monkeypatch.setattr(gpu.chance, "choice", lambda ready: ready[-1])
    first, second = Executor(gpu, plan, residents), Executor(gpu, plan, residents)
    generator = np.random.default_rng(0)
    states = generator.standard_normal((15, IMAGE)).astype(np.float32)
    image_states, image_lengths = Gallery("image", "hash", states, np.arange(4) * 5).gather(np.arange(3))
    requests = call(generator, 3, 1) | {"image_states": image_states, "image_lengths": image_lengths}
    list(first.run([call(generator, 3, 4), call(generator, 3, 1)]))  # creates the contexts, which blocks
    assert not residents.should_keep(image_states)
    sending = first.run([call(generator, 3, 4), requests])
    next(sending)
    assert residents.find(image_states) is not None
    assert_equal(list(second.run([requests])), expected(session, [requests]))
    assert_equal(list(sending), expected(session, [requests]))


def test_a_repeated_call_is_captured_the_third_time(gpu, trt, executor, plan, session):
    generator, launched, runs = np.random.default_rng(0), [], []
    for _ in range(5):
        one = call(generator, 3, 4)
        before, ran = gpu.launched, len(trt.runs)
        assert_equal(list(executor.run([one])), expected(session, [one]))
        launched.append(gpu.launched - before)
        runs.append([graphed for _, _, _, graphed in trt.runs[ran:]])
    if plan.captures_itself:  # if configured to, from the second time on
        assert (launched, runs) == ([0] * 5, [[False], [True], [True], [True], [True]])
    else:
        assert (launched, runs) == ([0, 0, 1, 1, 1], [[False], [False], [False], [], []])


def test_a_call_that_can_not_be_captured_runs_normally(gpu, trt, executor, session):
    trt.uncapturable = True
    generator = np.random.default_rng(0)
    for _ in range(5):
        one = call(generator, 3, 4)
        assert_equal(list(executor.run([one])), expected(session, [one]))
    assert gpu.launched == 0


def test_a_context_that_says_it_can_not_be_captured_is_not(gpu, trt, executor, plan, session, monkeypatch):
    context = type(trt.engines[-1].create_execution_context("user managed"))
    monkeypatch.setattr(context, "is_stream_capturable", lambda self, handle: False, raising=False)
    generator = np.random.default_rng(0)
    for _ in range(4):
        one = call(generator, 3, 4)
        assert_equal(list(executor.run([one])), expected(session, [one]))
    assert gpu.launched == 0


def test_a_call_repeated_too_late_is_not_captured():
    created = []
    graphs = CudaGraphs(3)
    for key in "abcdabcd":
        assert graphs.get(key, lambda: created.append("?")) is None
    assert created == []
    assert [graphs.get(key, lambda key=key: key.upper()) for key in "bcdbcd"] == ["B", "C", "D", "B", "C", "D"]


def test_padding_to_a_profiles_smallest_shape_changes_no_score(
    gpu, make_profile, default_profiles, add_engine, tiny_bundle, trt, residents
):
    ranges = {"images": (4, 4, 4), "regions": (5, 5, 5), "captions": (2, 2, 2), "words": (8, 8, 12)}
    add_engine(profiles={**default_profiles, "scorer": [make_profile("scorer", "fixed", **ranges)]})
    bundle = open_bundle(tiny_bundle)
    plan = load_plan(trt, engines.engine_records(bundle)[0], bundle, "scorer", "8.6")
    executor, generator = Executor(gpu, plan, residents), np.random.default_rng(0)
    requests = [call(generator, *items) for items in ((1, 1, 2, 3), (3, 2, 5, 8), (4, 2, 1, 1))]
    assert_equal(list(executor.run(requests)), expected(trt.engines[-1].session, requests))
    assert {shapes["image_states"] for _, _, shapes, _ in trt.runs} == {(4, 5, IMAGE)}


def test_a_call_that_no_profile_takes_is_refused_and_the_executor_continues(executor, session):
    generator = np.random.default_rng(0)
    good, bad = call(generator, 2, 2), call(generator, 4, 2)
    results = executor.run([good, bad])
    with pytest.raises(InputError, match="the engine's scorer does not take 4 images × 5 regions × 2 captions"):
        list(results)
    assert executor.healthy
    assert_equal(list(executor.run([good])), expected(session, [good]))


def test_a_failed_run_reports_tensorrt_s_error(executor, trt, monkeypatch):
    context = type(trt.engines[-1].create_execution_context("user managed"))
    monkeypatch.setattr(context, "execute_async_v3", lambda self, handle: False)
    with pytest.raises(CaanError, match="TensorRT failed on the scorer: it did not run"):
        list(executor.run([call(np.random.default_rng(0), 2, 2)]))


@pytest.mark.parametrize(
    ("method", "answer", "says"),
    [
        ("set_input_shape", False, r"image_states can't have the shape \(2, 5, 41\)"),
        ("infer_shapes", ["text_lengths"], "the shapes of text_lengths are not known"),
        ("get_tensor_shape", (2, 3), r"scores has the shape \(2, 3\), not \(2, 2\)"),
        ("set_tensor_address", False, "image_states can't be at the address 0x"),
        ("set_optimization_profile_async", False, "the profile matrix can't be chosen"),
    ],
)
def test_whatever_a_context_rejects_is_an_error(executor, trt, monkeypatch, method, answer, says):
    context = type(trt.engines[-1].create_execution_context("user managed"))
    monkeypatch.setattr(context, method, lambda *arguments: answer)
    with pytest.raises(CaanError, match=f"TensorRT failed on the scorer: {says}"):
        list(executor.run([call(np.random.default_rng(0), 2, 2)]))


def test_an_engine_that_makes_no_context_is_an_error(executor, trt, monkeypatch):
    monkeypatch.setattr(type(trt.engines[-1]), "create_execution_context", lambda self, how: None)
    with pytest.raises(CaanError, match="TensorRT failed on the scorer: no execution context can be made"):
        list(executor.run([call(np.random.default_rng(0), 2, 2)]))


def test_abandoned_results_leave_nothing_in_flight(gpu, executor, session):
    generator = np.random.default_rng(0)
    requests = [call(generator, 2, 2) for _ in range(4)]
    results = executor.run(requests)
    next(results)
    results.close()
    assert all(not stream.queue for stream in gpu.streams)
    assert_equal(list(executor.run(requests)), expected(session, requests))


def test_device_and_pinned_memory_are_freed_with_the_executor(gpu, executor, plan, residents):
    generator = np.random.default_rng(0)
    list(executor.run([call(generator, 3, 4) for _ in range(4)]))
    assert gpu.device and gpu.host
    before = set(gpu.device)
    other = Executor(gpu, plan, residents)
    list(other.run([call(generator, 3, 4) for _ in range(4)]))
    del other
    assert set(gpu.device) == before


def test_a_cached_array_is_not_used_if_it_needs_padding(
    gpu, make_profile, default_profiles, add_engine, tiny_bundle, trt, residents
):
    R, T = (1, 5, 5), (1, 12, 12)
    profiles = [
        make_profile("scorer", "pairs", images=(3, 3, 3), regions=R, captions=(2, 2, 4), words=T),
        make_profile("scorer", "search", images=(5, 5, 9), regions=R, captions=(1, 1, 1), words=T),
    ]
    add_engine(profiles={**default_profiles, "scorer": profiles})
    bundle = open_bundle(tiny_bundle)
    plan = load_plan(trt, engines.engine_records(bundle)[0], bundle, "scorer", "8.6")
    executor, generator = Executor(gpu, plan, residents), np.random.default_rng(0)
    states = generator.standard_normal((15, IMAGE)).astype(np.float32)
    image_states, image_lengths = Gallery("image", "hash", states, np.arange(4) * 5).gather(np.arange(3))
    images = {"image_states": image_states, "image_lengths": image_lengths}
    requests = [call(generator, 3, captions) | images for captions in (2, 2, 2, 1, 1, 1)]
    assert_equal(list(executor.run(requests)), expected(trt.engines[-1].session, requests))
    assert [shapes["image_states"][0] for _, _, shapes, _ in trt.runs] == [3, 3, 3, 5, 5, 5]


def test_a_pool_gives_every_call_its_own_executor(gpu, plan, residents, session):
    pool, failures, used = ExecutorPool(lambda: Executor(gpu, plan, residents)), [], []

    def work(seed):
        generator = np.random.default_rng(seed)
        requests = [call(generator, 3, 4) for _ in range(6)]
        try:
            with pool.executor() as executor:
                assert executor not in used
                used.append(executor)
                results = list(executor.run(requests))
                used.remove(executor)
            assert_equal(results, expected(session, requests))
        except Exception as error:
            failures.append(error)

    for _ in range(3):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == [] and used == []


class Idle:
    """An executor that does nothing."""

    healthy = True


def test_an_executor_is_reused_unless_its_streams_failed():
    pool = ExecutorPool(Idle)
    with pool.executor() as first:
        pass
    with pool.executor() as second, pool.executor() as other:
        assert second is first and other is not first
        second.healthy = False
    with pool.executor() as one, pool.executor() as two:
        assert one is other and two is not first


def test_a_closed_pool_provides_and_keeps_no_executor():
    executors = []

    def make():
        executor = Idle()
        executors.append(weakref.ref(executor))
        return executor

    pool = ExecutorPool(make)
    with pool.executor(), pool.executor():
        pass
    with pool.executor():
        pool.close()
    assert [executor() for executor in executors] == [None, None]
    with pytest.raises(InputError, match="this backend is closed"), pool.executor():
        pass
