"""caan-bench: every row measured or listed with its reason, and numbers that agree with the runtime's."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from caan.bench import run as bench_run
from caan.bench.native_gains import native_gains
from caan.bench.run import run_bench
from caan.bench.table import bench_table
from caan.data.scan import open_split
from caan.errors import CheckpointError, DataError
from caan.metrics import retrieval_metrics
from caan.runtime import Retriever


@pytest.fixture(scope="module")
def result(tiny_folder):
    return run_bench(tiny_folder / "model.caan", data=tiny_folder / "data", rounds=2, threads=1)


def row(result, label, device="cpu"):
    return next(r for r in result.rows if r.spec.label == label and r.spec.device == device)


def test_every_row_that_ran_has_every_number(result):
    for label in ("pytorch, precomputed", "onnxruntime"):
        measured = row(result, label)
        assert measured.reason is None and len(measured.rounds) == 2
        assert measured.pairs_per_second > 0 and measured.images_per_second > 0 and measured.captions_per_second > 0
        for percentiles in (measured.text_query, measured.image_query):
            assert 0 < percentiles["p50"] <= percentiles["p95"] <= percentiles["p99"]
        assert measured.peak_bytes > 20 << 20


def test_only_throughput_of_the_research_form_is_measured(result):
    research = row(result, "pytorch, research form")
    assert research.pairs_per_second > 0 and research.text_query is None


def test_a_backend_that_cannot_run_here_is_listed_with_the_reason(result):
    cuda = row(result, "onnxruntime", "cuda")
    if cuda.reason is None:
        pytest.skip("this machine has a CUDA device")
    table = bench_table(result)
    assert "not run here" in table and cuda.reason in table


def test_the_table_shows_the_runtime_s_metrics(result, tiny_folder):
    data = open_split(tiny_folder / "data")
    retriever = Retriever.open(tiny_folder / "model.caan", "onnxruntime")
    scores = retriever.score_matrix(retriever.encode_images(data.features), data.captions)
    measured = row(result, "onnxruntime")
    assert measured.metrics == retrieval_metrics(scores, data.image_of_caption)
    assert np.abs(measured.scores - scores).max() <= 1e-6
    assert measured.parity.max_abs <= 1e-5
    assert f"{measured.metrics.rsum:.2f}" in bench_table(result)


def test_the_result_is_json(result):
    rows = json.loads(json.dumps(result.as_dict()))["rows"]
    assert {r["label"] for r in rows} == {"pytorch, research form", "pytorch, precomputed", "onnxruntime", "native"}


@pytest.mark.slow
def test_the_compiled_scorer_is_compared_with_onnxruntime(tiny_folder):
    pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
    rows = ("pytorch, precomputed", "onnxruntime fp32", "native")
    result = run_bench(tiny_folder / "model.caan", data=tiny_folder / "data", rounds=2, threads=2, only=rows)
    native = [row for row in result.rows if row.spec.backend == "native" and row.reason is None]
    gains = native_gains(result.rows)
    assert [gain.row for gain in gains] == [row.name for row in native] != []
    for row, gain in zip(native, gains, strict=True):
        assert row.tuning is None and row.tile_bytes is None
        rounds = [r["pairs_per_second"] / r["pairs_per_second_of_one_thread"] for r in row.rounds]
        assert gain.threads == pytest.approx(np.median(rounds))
        base = next(r for r in result.rows if r.spec.backend == "onnxruntime")
        assert gain.text_query == pytest.approx(base.text_query["p50"] / row.text_query["p50"])
        assert gain.pairs > 0
        assert 0 < gain.score_error <= (2e-6 if row.spec.precision == "fp32" else 5e-3)
    table = bench_table(result)
    assert f"scores within {gains[0].score_error:.1e} of float64" in table
    assert "against onnxruntime fp32" in table and "native fp32: kept (max |Δ score| 1e-04)" in table
    assert json.loads(json.dumps(result.as_dict()))["native"][0]["row"] == "native fp32"


def test_one_thread_is_not_compared_with_itself(result):
    assert [gain.threads for gain in native_gains(result.rows)] == [None for _ in native_gains(result.rows)]


@pytest.mark.slow
def test_without_the_package_its_rows_say_so(tiny_folder, tmp_path):
    """Each row is a separate process, so the environment blocks the import."""
    (tmp_path / "caan_native.py").write_text("raise ModuleNotFoundError('no', name='caan_native')\n")
    code = (
        "import sys; from pathlib import Path\n"
        "from caan.bench.run import run_bench\n"
        "if __name__ == '__main__':\n"
        "    rows = run_bench(Path(sys.argv[1]), rounds=1, threads=1, only=('onnxruntime fp32', 'native')).rows\n"
        "    print([row.reason for row in rows if row.spec.backend == 'native'])\n"
    )
    (tmp_path / "bench.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, tmp_path / "bench.py", tiny_folder / "model.caan"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    assert done.stdout.count("needs the package 'caan_native'; build it: make native") == 2


def test_without_the_checkpoint_the_pytorch_rows_say_so(tiny_folder, tiny_bundle):
    rows = run_bench(tiny_bundle, data=tiny_folder / "data", rounds=1, threads=1).rows
    assert all("--checkpoint" in r.reason for r in rows if r.spec.backend == "torch")
    assert rows[2].metrics is not None and rows[2].parity is None


def test_another_model_s_checkpoint_is_refused(tiny_bundle, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"something else")
    bundle = bench_run.open_bundle(tiny_bundle)
    with pytest.raises(CheckpointError, match="is not what"):
        bench_run.checkpoint_of(bundle, tmp_path / "other.pt")


def test_data_of_another_feature_dimension_is_refused(tiny_folder, tmp_path):
    np.save(tmp_path / "test_ims.npy", np.zeros((2, 3, 7), np.float32))
    (tmp_path / "test_caps.txt").write_text("w1\n" * 10)
    with pytest.raises(DataError, match="dimension 7"):
        run_bench(tiny_folder / "model.caan", data=tmp_path)
