"""An interrupted bench keeps its measurements and resumes from them."""

import numpy as np
import pytest

from caan.bench import run as bench_run
from caan.bench.interrupted import SavedMeasurements
from caan.bench.run import run_bench

ROWS = ("onnxruntime fp32",)


@pytest.fixture
def bench(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    said = []

    def call(**options):
        options = {"rounds": 3, "threads": 1, "only": ROWS, "data": tiny_folder / "data", **options}
        return run_bench(tiny_folder / "model.caan", said.append, **options)

    call.said = said
    return call


class Stopped(BaseException):
    """As Ctrl-C."""


@pytest.fixture
def interrupted(bench, monkeypatch):
    """A bench interrupted in its second round."""
    honest, rounds = bench_run._Worker.send, []

    def send(self, message):
        if message == "measure":
            rounds.append(message)
            if len(rounds) == 2:
                raise Stopped
        honest(self, message)

    with monkeypatch.context() as patch:
        patch.setattr(bench_run._Worker, "send", send)
        with pytest.raises(Stopped):
            bench()


def cpu_row(result):
    return next(row for row in result.rows if row.reason is None)


def test_it_reports_its_duration_and_how_to_resume(bench, interrupted):
    assert any(text.startswith("3 rounds of 1 rows will take about ") for text in bench.said)
    assert bench.said[-1] == "interrupted: the measurements so far are kept; resume with the same command and --resume"


@pytest.mark.slow
def test_resumed_it_measures_what_is_missing(bench, interrupted, monkeypatch):
    messages = []
    honest = bench_run._Worker.send
    monkeypatch.setattr(bench_run._Worker, "send", lambda self, m: (messages.append(m), honest(self, m))[1])
    row = cpu_row(bench(resume=True))
    assert messages.count("measure") == 2 and len(row.rounds) == 3
    assert row.metrics is not None and row.tuning["pairs"].tried and row.pair_work.flop > 0
    # Complete: nothing is left to resume.
    messages.clear()
    bench(resume=True)
    assert messages.count("measure") == 3


def test_scores_are_not_computed_again(bench, interrupted, tmp_path):
    (scores,) = (tmp_path / "cache" / "bench").rglob("*.npy")
    marked = np.full_like(np.load(scores), 0.25)
    np.save(scores, marked)
    assert np.array_equal(cpu_row(bench(resume=True)).scores, marked)


def test_without_resume_it_starts_over(bench, interrupted, tmp_path):
    (scores,) = (tmp_path / "cache" / "bench").rglob("*.npy")
    np.save(scores, np.full_like(np.load(scores), 0.25))
    assert not (cpu_row(bench()).scores == 0.25).all()


def test_a_damaged_record_is_ignored(bench, interrupted, tmp_path):
    (record,) = (tmp_path / "cache" / "bench").rglob("rows.json")
    record.write_bytes(b'{"0 onnxruntime fp32": 1}')
    assert len(cpu_row(bench(resume=True)).rounds) == 3


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b'{"row": 1}', b'{"row": {}}', b"\xff"])
def test_only_a_whole_record_is_read(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path))
    SavedMeasurements("bench", resume=False).keep("row", {"rounds": []})
    assert SavedMeasurements("bench", resume=True).rows == {"row": {"rounds": []}}
    (record,) = tmp_path.rglob("rows.json")
    record.write_bytes(damage)
    assert SavedMeasurements("bench", resume=True).rows == {}
