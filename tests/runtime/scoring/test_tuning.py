"""Tiles and thread layouts: every choice gives the same scores; the fastest is found once and cached."""

import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from caan._cache import cache_folder
from caan.errors import CaanWarning
from caan.runtime import Retriever
from caan.runtime.backends.contract import Layout
from caan.runtime.backends.onnxruntime.backend import score_concurrently
from caan.runtime.scoring import noise, tuning
from caan.runtime.scoring.cutters import Choice
from caan.runtime.scoring.tiles import score_stream

CAPTIONS = [f"w{n % 20} w{n % 7} w{n % 3}" for n in range(60)]


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """A cache of this test's own."""
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_TRIAL_SECONDS", 0.001)
    return cache_folder("tuning")


@pytest.fixture
def opened(tiny_folder, own_cache):
    """opened(**options): a Retriever of the tiny bundle."""
    default = {"backend": "onnxruntime", "threads": 2}
    return lambda **options: Retriever.open(tiny_folder / "model.caan", **{**default, **options})


@pytest.fixture
def gallery(opened):
    features = np.random.default_rng(0).standard_normal((70, 5, 12)).astype(np.float32)
    return opened().encode_images(features, np.arange(70) % 5 + 1)


def scores_by(retriever, choice, gallery):
    scores = np.empty((len(gallery), len(CAPTIONS)), np.float32)
    for images, captions, block in score_stream(
        retriever.backend, choice, gallery, retriever.encode_captions(CAPTIONS)
    ):
        scores[np.ix_(images, captions)] = block
    return scores


def test_every_layout_and_tile_gives_the_same_scores(opened, gallery):
    retriever = opened()
    assert retriever.backend.layouts == [Layout(1, 2), Layout(2, 1)]
    expected = retriever.score_matrix(gallery, CAPTIONS)
    for layout in (None, *retriever.backend.layouts):
        for tile_bytes in (1, 20_000, 1 << 20):
            assert np.abs(scores_by(retriever, Choice(tile_bytes, layout), gallery) - expected).max() <= 2e-6


def test_one_thread_has_one_layout(opened):
    assert opened(threads=1).backend.layouts == [Layout(1, 1)]


def test_a_tuning_is_used_and_kept_for_the_next_retriever(opened, gallery):
    retriever = opened()
    assert retriever.tuning is None
    result = retriever.tune(gallery)
    assert retriever.tuning is result
    assert {trial.choice.layout for trial in result.pairs} == {Layout(1, 2), Layout(2, 1)}
    assert opened().tuning == result
    assert np.abs(retriever.score_matrix(gallery, CAPTIONS) - scores_by(retriever, Choice(1), gallery)).max() <= 2e-6
    assert len(retriever.search("w1", gallery, 70)) == 70


def test_queries_and_many_pairs_are_tuned_separately(opened, gallery):
    fast, slow = tuning.Trial(Choice(1), 2.0), tuning.Trial(Choice(2), 1.0)
    result = tuning.Tuning(query=(fast, slow), pairs=(dataclasses.replace(slow, pairs_per_second=3.0), fast))
    assert (result.choice(1000, 1), result.choice(1, 1000), result.choice(1000, 1000)) == (
        Choice(1),
        Choice(1),
        Choice(2),
    )


def test_a_tuning_is_not_used_on_another_machine_or_setup(opened, gallery, tiny_bundle, monkeypatch):
    opened().tune(gallery)
    assert opened().tuning is not None
    assert opened(tile_bytes=1 << 20).tuning is None
    assert opened(threads=1).tuning is None  # which has no concurrent scorers
    assert opened(threads=3).tuning is None
    backend = opened().backend
    for other in ("fp16", "another scorer"):
        monkeypatch.setattr(backend, "fingerprint", f"{backend.fingerprint} {other}")
        assert tuning.cached_tuning(backend) is None
    monkeypatch.setattr(tuning, "describe_machine", lambda: "another machine")
    assert opened().tuning is None


TRIAL = [1 << 20, [1, 2], 5.0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[",
        "[" * 100_000,
        "null",
        "[]",
        "{}",
        "\x00",
        json.dumps({"query": [], "pairs": []}),
        json.dumps({"query": [TRIAL]}),
        json.dumps({"query": [TRIAL], "pairs": [[1 << 20, [7, 7], 5.0]]}),
        json.dumps({"query": [TRIAL], "pairs": [[1 << 20, None, 5.0]]}),
        json.dumps({"query": [TRIAL], "pairs": [[0, [1, 2], 5.0]]}),
        json.dumps({"query": [TRIAL], "pairs": [["x", [1, 2], 5.0]]}),
        json.dumps({"query": [TRIAL], "pairs": [[float("inf"), [1, 2], 5.0]]}),
        json.dumps({"query": [TRIAL], "pairs": [[1 << 20, [1, 2]]]}),
        json.dumps({"query": [TRIAL], "pairs": [5]}),
    ],
)
def test_a_damaged_cache_is_ignored(opened, gallery, own_cache, content):
    opened().tune(gallery)
    (file,) = own_cache.iterdir()
    assert opened().tuning is not None
    file.write_text(content)
    retriever = opened()
    assert retriever.tuning is None
    assert len(retriever.search("w1", gallery, 3)) == 3


def test_an_unwritable_cache_only_costs_time(opened, gallery, own_cache):
    own_cache.parent.mkdir()
    own_cache.write_text("a file")
    retriever = opened()
    with pytest.warns(CaanWarning, match="the tuning can't be saved: .*; name a folder with CAAN_CACHE"):
        assert retriever.tune(gallery) is retriever.tuning
    assert opened().tuning is None


def test_a_large_job_tunes_automatically_and_a_small_one_does_not(opened, gallery, monkeypatch):
    pairs = 70 * len(CAPTIONS)
    monkeypatch.setattr(tuning, "_WORTH_PAIRS", pairs + 1)
    small = opened()
    expected = small.score_matrix(gallery, CAPTIONS)
    assert small.tuning is None
    monkeypatch.setattr(tuning, "_WORTH_PAIRS", pairs)
    fixed = opened(tile_bytes=1 << 20)
    fixed.score_matrix(gallery, CAPTIONS)
    assert fixed.tuning is None
    large = opened()
    scores = large.score_matrix(gallery, CAPTIONS)
    assert large.tuning is not None
    assert np.abs(scores - expected).max() <= 2e-6
    assert opened().tuning == large.tuning


def test_tuning_does_not_change_the_galleries(opened, gallery):
    deleted = np.arange(70) % 2 == 0
    half = dataclasses.replace(gallery, deleted=deleted)
    opened().tune(half, CAPTIONS)
    assert (half.deleted == (np.arange(70) % 2 == 0)).all() and gallery.deleted is None


def test_concurrent_scoring_keeps_the_order_and_prefetches_one_tile():
    taken, workers = [], 3

    def tiles():
        for number in range(30):
            taken.append(number)
            yield number

    def score(number):
        time.sleep(0.002 * (number % 4))
        return number

    for position, result in enumerate(score_concurrently(score, tiles(), workers)):
        assert result == position
        assert len(taken) <= position + workers + 1
    assert len(taken) == 30


def test_concurrent_scoring_raises_a_worker_s_exception():
    def score(number):
        if number == 5:
            raise ValueError("five")
        return number

    seen = []
    with pytest.raises(ValueError, match="five"):
        for result in score_concurrently(score, range(30), 2):
            seen.append(result)
    assert seen == [0, 1, 2, 3, 4]
    assert_no_worker_is_left()


def test_concurrent_scoring_raises_an_exception_of_the_tiles():
    def tiles():
        yield 0
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(score_concurrently(lambda tile: tile, tiles(), 2))
    assert_no_worker_is_left()


def test_concurrent_scoring_stops_when_its_consumer_does():
    scored = []
    stream = score_concurrently(lambda tile: scored.append(tile) or tile, range(1000), 2)
    assert next(stream) == 0
    stream.close()
    assert len(scored) <= 4
    assert_no_worker_is_left()


def assert_no_worker_is_left():
    assert [t for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")] == []


def test_concurrent_threads_tune_once(opened, gallery, monkeypatch):
    two = opened()
    monkeypatch.setattr("caan.runtime.scoring.tuning._WORTH_PAIRS", 1)
    began, tuned = threading.Barrier(4), []

    def slow(*arguments):
        tuned.append(arguments)
        time.sleep(0.3)
        return tuning.tune(*arguments)

    monkeypatch.setattr("caan.runtime.tuned_scorer.tune", slow)

    def search(number):
        began.wait()
        return two.search("w1", gallery, 2)

    with ThreadPoolExecutor(4) as threads:
        result = list(threads.map(search, range(4)))
    assert len(tuned) == 1
    assert all([hit.index for hit in hits] == [hit.index for hit in result[0]] for hits in result)


# Measurements on a busy machine, and contradicted by a later run


@pytest.fixture
def measured(monkeypatch):
    """measured(noise, best): set the doubts and the fastest choice of the next measurements."""

    def set_(noise=(), fastest=0):
        def try_all(backend, images, texts):
            measurements.append(noise)
            trials = [tuning.Trial(Choice(1 << number, Layout(1, 2)), 1.0 + (number == fastest)) for number in range(3)]
            return tuning.Tuning(tuple(trials), tuple(trials), clock[0], noise)

        monkeypatch.setattr(tuning, "try_all", try_all)
        return measurements

    measurements, clock = [], [1000.0]
    monkeypatch.setattr(tuning.time, "time", lambda: clock[0])
    monkeypatch.setattr(tuning, "_WORTH_PAIRS", 1)
    monkeypatch.setattr(tuning, "_CONTRADICTS", 1e12)  # this machine's real speed must not matter
    set_.later = lambda seconds: clock.__setitem__(0, clock[0] + seconds)
    return set_


def test_a_doubtful_tuning_is_used_and_measured_again_after_a_while(opened, gallery, measured):
    measurements = measured(("other processes used 80% of the CPUs",), fastest=1)
    opened().score_matrix(gallery, CAPTIONS)
    retriever = opened()
    assert retriever.choice(70, 60).tile_bytes == 2 and retriever.tuning.doubts
    retriever.score_matrix(gallery, CAPTIONS)
    assert len(measurements) == 1
    measured.later(601)
    measured((), fastest=2)
    retriever.score_matrix(gallery, CAPTIONS)
    assert len(measurements) == 2 and retriever.choice(70, 60).tile_bytes == 4 and not retriever.tuning.doubts
    measured.later(601)
    opened().score_matrix(gallery, CAPTIONS)
    assert len(measurements) == 2


def test_a_second_measurement_with_the_same_choice_confirms_it(opened, gallery, measured):
    measurements = measured(("noise",))
    for _ in range(4):
        opened().score_matrix(gallery, CAPTIONS)
        measured.later(601)
    assert len(measurements) == 2 and opened().tuning.confirmed and opened().tuning.doubts == ()


def test_a_noisy_measurement_does_not_replace_a_quiet_one(opened, gallery, measured, monkeypatch):
    measured((), fastest=1)
    retriever = opened()
    retriever.tune(gallery)
    with monkeypatch.context() as own:
        own.setattr(tuning, "_CONTRADICTS", 1.6)
        retriever.tuning = tuning.compare(retriever.backend, retriever.tuning, 1000, 1000, 1e-3)
    assert "a run scored 1,000,000,000 pairs/s, its trial 2" in retriever.tuning.doubts
    measured(("noise",), fastest=2)
    measured.later(601)
    again = opened()
    again.score_matrix(gallery, CAPTIONS)
    assert again.choice(70, 60).tile_bytes == 2 and again.tuning.doubts


@pytest.mark.parametrize(("speed", "contradicts"), [(1.0, False), (1.5, False), (0.7, False), (2.0, True), (0.5, True)])
def test_a_run_far_from_its_trial_contradicts_it(opened, gallery, measured, monkeypatch, speed, contradicts):
    measured()
    monkeypatch.setattr(tuning, "_CONTRADICTS", 1.6)
    retriever = opened()
    result = retriever.tune(gallery)
    seconds = 1e6 / (tuning.best(result.pairs).pairs_per_second * speed)
    compared = tuning.compare(retriever.backend, result, 1000, 1000, seconds)
    assert bool(compared.doubts) is contradicts
    assert opened().tuning == compared
    # A query is not what the trial timed.
    assert tuning.compare(retriever.backend, result, 1_000_000, 1, seconds) is result


def test_repetitions_that_differ_are_doubtful():
    watch = noise.Watch()
    steady, shaky = np.full((4, 3), 1.0), np.tile([1.0, 1.5, 2.0], (4, 1))
    assert [d for d in watch.doubts(steady) if "repetitions" in d] == []
    assert "repetitions differed by 50%" in watch.doubts(shaky)


@pytest.mark.parametrize(("seconds", "doubtful"), [(0, False), (10, True)])
def test_cpu_use_by_other_processes_is_doubtful(monkeypatch, seconds, doubtful):
    times = [
        SimpleNamespace(user=1.0, nice=0, system=0, idle=5.0, softirq=0),
        SimpleNamespace(user=7, nice=7, system=7),
    ]
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: times)
    monkeypatch.setattr(noise, "_processors", lambda: {0})
    watch = noise.Watch()
    times[0].idle, times[1].user = 500.0, 999.0  # idle time, and a CPU this process may not use
    times[0].softirq = seconds
    assert any("other processes used" in doubt for doubt in watch.doubts(np.ones((2, 2)))) is doubtful


def test_throttled_threads_are_doubtful(monkeypatch):
    monkeypatch.setattr(noise, "throttled", iter([3, 3, 3, 4]).__next__)
    assert "the control group throttled threads" not in noise.Watch().doubts(np.ones((2, 2)))
    assert "the control group throttled threads" in noise.Watch().doubts(np.ones((2, 2)))


def test_caan_tune_prints_every_trial_and_doctor_the_cache_folder(run, tiny_folder, own_cache):
    done = run("tune", tiny_folder / "model.caan", "--backend", "onnxruntime", "--threads", 2)
    assert done.code == 0 and done.out.count("pairs/s") == 16 and done.out.count("*") == 2
    (entry,) = json.loads(run("doctor", "--json").out)["tuning"]["kept"]
    assert entry["of"].startswith("onnxruntime ") and entry["of"].endswith("2 threads") and entry["age"] < 600
    output = run("doctor").out
    assert f"tuned    1 in {own_cache}" in output and "just now" in output


def test_caan_tune_uses_the_given_gallery(run, tiny_folder, own_cache, tmp_path):
    features = tiny_folder / "data" / "test_ims.npy"
    assert run("index", tiny_folder / "model.caan", features, "-o", tmp_path / "g").code == 0
    done = run("tune", tiny_folder / "model.caan", "--gallery", tmp_path / "g", "--backend", "onnxruntime", "--json")
    assert done.code == 0 and {"query", "pairs", "noise", "doubts"} <= json.loads(done.out).keys()


def test_a_backend_with_one_way_to_score_has_nothing_to_tune(run, tiny_folder):
    done = run("tune", tiny_folder / "model.pt", "--backend", "torch")
    assert done.code == 2 and "has nothing to tune" in done.err
