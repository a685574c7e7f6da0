"""The accuracy gate: its reference, its decisions, and its cache."""

import json
from dataclasses import replace

import numpy as np
import pytest

from caan.accuracy import reference_scores as reference_module
from caan.accuracy.gate import DEFAULT_LIMITS, AccuracyGate, Limits, complete_engine_records, fp32_gate, limits_text
from caan.accuracy.reference_scores import OWN_FP32, PYTORCH, reference_scores
from caan.accuracy.workload import Workload, data_workload, spread
from caan.bundle import change_bundle, open_bundle
from caan.errors import CaanWarning, CheckpointError, GateError
from caan.metrics import parity
from caan.runtime import Retriever


@pytest.fixture
def bundle(tiny_folder):
    return open_bundle(tiny_folder / "model.caan")


@pytest.fixture
def workload(tiny_folder):
    return data_workload(tiny_folder / "data", "test")


@pytest.fixture
def fresh_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


@pytest.fixture
def scorings(monkeypatch):
    """Backends that scored a whole data set, in order."""
    from caan.runtime import Retriever

    seen = []
    original = Retriever.score_dataset

    def counted(self, *arguments, **options):
        seen.append(self.backend.name)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Retriever, "score_dataset", counted)
    return seen


def gate_with(reference, limits, workload):
    return AccuracyGate(workload, reference, "a reference", limits)


def scores_like(workload, change=0.0):
    truth = workload.image_of_caption
    generator = np.random.default_rng(0)
    clean = 0.4 * generator.standard_normal((len(workload.features), len(truth))).astype(np.float32)
    clean += np.arange(len(workload.features))[:, None] == truth
    return clean, (clean + change * generator.standard_normal(clean.shape)).astype(np.float32)


def test_the_reference_is_pytorch_and_is_computed_once(bundle, workload, fresh_cache, scorings):
    first, name = reference_scores(workload, bundle, None)
    again, _ = reference_scores(workload, bundle, None)
    assert name == PYTORCH and scorings == ["torch"]
    assert np.array_equal(first, again) and first.shape == (6, 30)


def test_other_captions_are_other_reference_scores(bundle, workload, fresh_cache, scorings):
    reference_scores(workload, bundle, None)
    captions = ["w1 w2", *list(workload.captions)[1:]]
    other, _ = reference_scores(replace(workload, captions=captions), bundle, None)
    assert scorings == ["torch", "torch"]
    first, _ = reference_scores(workload, bundle, None)
    assert (first[:, 0] != other[:, 0]).any()


def test_damaged_reference_scores_are_computed_again(bundle, workload, fresh_cache, scorings):
    whole, _ = reference_scores(workload, bundle, None)
    (file,) = fresh_cache.iterdir()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (b"", bytes(content[:100]), bytes(content)):
        file.write_bytes(damaged)
        again, _ = reference_scores(workload, bundle, None)
        assert np.array_equal(whole, again)
    assert scorings == ["torch"] * 4


def test_an_unwritable_cache_is_not_an_error(bundle, workload, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "file"))
    with pytest.warns(CaanWarning, match="can't be saved"):
        scores, _ = reference_scores(workload, bundle, None)
    assert scores.shape == (6, 30)


def test_only_the_newest_reference_scores_are_kept(bundle, workload, fresh_cache, monkeypatch):
    monkeypatch.setattr(reference_module, "_KEPT", 2)
    for word in ("w1", "w2", "w3"):
        reference_scores(replace(workload, captions=[word] * 30), bundle, None)
    assert len(list(fresh_cache.iterdir())) == 2


def test_without_the_checkpoint_the_bundle_s_fp32_graphs_are_the_reference(
    tiny_bundle, bundle, workload, fresh_cache, scorings
):
    # In the copied bundle, the manifest's relative path leads to no checkpoint.
    scores, name = reference_scores(workload, open_bundle(tiny_bundle), None)
    assert name == OWN_FP32 and scorings == ["onnxruntime"]
    pytorch, _ = reference_scores(workload, bundle, None)
    assert np.abs(scores - pytorch).max() <= 1e-5


def test_a_named_checkpoint_of_another_model_is_refused(bundle, workload, tmp_path):
    (tmp_path / "other.pt").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not what"):
        reference_scores(workload, bundle, tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("limits", "change", "passed"),
    [
        (Limits(delta_rsum=0.0), 0.0, True),
        (Limits(delta_rsum=5.0), 2.0, False),
        (Limits(delta_rsum=600.0), 2.0, True),
        (Limits(max_abs=1e-4), 1e-3, False),
        (Limits(max_abs=1.0), 1e-3, True),
        (Limits(), 2.0, True),
    ],
)
def test_the_gate_holds_within_its_limits(workload, limits, change, passed):
    reference, scores = scores_like(workload, change)
    record = gate_with(reference, limits, workload).compare(scores, "onnxruntime")
    assert record["passed"] is passed
    difference = parity(scores, reference, workload.image_of_caption)
    assert record["parity"]["delta_rsum"] == difference.delta_rsum
    assert record["metrics"]["rsum"] - record["reference"]["rsum"] == pytest.approx(difference.delta_rsum)
    json.dumps(record, allow_nan=False)


def test_an_rsum_that_rises_too_far_fails_too(workload):
    good, bad = scores_like(workload, 2.0)
    assert not gate_with(bad, Limits(delta_rsum=5.0), workload).compare(good, "x")["passed"]


def test_nan_never_passes(workload):
    reference, scores = scores_like(workload)
    scores[0, 0] = np.nan
    record = gate_with(reference, Limits(), workload).compare(scores, "onnxruntime")
    assert record["passed"] is False and "1 of 180 scores are NaN" in record["summary"]


def test_a_sample_is_the_same_gate_on_fewer_images(workload):
    reference, _ = scores_like(workload, 0.3)
    gate = gate_with(reference, Limits(), workload)
    sample = gate.sample(3)
    assert sample.workload.features.shape[0] == 3 and len(sample.workload.captions) == 15
    images = [0, 2, 5]
    columns = np.flatnonzero(np.isin(workload.image_of_caption, images))
    assert np.array_equal(sample.reference, reference[np.ix_(images, columns)])
    assert np.array_equal(sample.truth, np.repeat([0, 1, 2], 5))
    assert np.array_equal(sample.workload.features[1], workload.features[2])
    assert list(sample.workload.captions) == [workload.captions[c] for c in columns]
    assert gate.sample(100).workload.features.shape[0] == 6


def test_the_default_limits_are_the_documented_ones():
    assert DEFAULT_LIMITS["fp32"].max_abs == 1e-4
    assert {p: DEFAULT_LIMITS[p].delta_rsum for p in ("fp16", "bf16", "int8")} == {
        "fp16": 0.5,
        "bf16": 0.5,
        "int8": 2.0,
    }
    assert str(DEFAULT_LIMITS["bf16"]) == "|Δ rsum| 0.5"
    assert limits_text({"allowed": {"delta_rsum": 0.5}}) == "|Δ rsum| 0.5"


def test_the_export_s_gate_passes_its_bundle_and_fails_a_wrong_one(tiny_folder, bundle, monkeypatch):
    workload = data_workload(tiny_folder / "data", "test")
    reference = Retriever.open(tiny_folder / "model.pt", "torch", device="cpu")
    record = fp32_gate(workload, reference)(bundle.folder)
    assert record["parity"]["max_abs"] <= 1e-5 and record["metrics"]["rsum"] == record["reference"]["rsum"]
    honest = AccuracyGate.scores
    monkeypatch.setattr(AccuracyGate, "scores", lambda self, *a: honest(self, *a) + np.float32(2e-4))
    with pytest.raises(GateError, match=r"too far from PyTorch: .*allowed: max \|Δ score\| 1e-04"):
        fp32_gate(workload, reference)(bundle.folder)


@pytest.fixture
def with_engines(tiny_bundle):
    """A bundle with engines of two precisions that have not run yet."""

    def add(folder, manifest):
        manifest["engines"] = {
            f"tensorrt-{precision}": {"precision": precision, "checks": [], "run": "engine not run: no NVIDIA GPU here"}
            for precision in ("fp32", "fp16")
        }

    change_bundle(tiny_bundle, add)
    return tiny_bundle


def test_an_engine_s_first_run_completes_its_record(with_engines, workload):
    reference, scores = scores_like(workload, 1e-6)
    complete_engine_records(with_engines, workload, reference, {"fp32": scores})
    engines = open_bundle(with_engines).manifest["engines"]
    ran, waits = engines["tensorrt-fp32"], engines["tensorrt-fp16"]
    assert (
        ran["run"] is None and ran["checks"][0]["passed"] is True and ran["checks"][0]["allowed"] == {"max_abs": 1e-4}
    )
    assert waits["run"] and waits["checks"] == []


def test_a_complete_record_is_unchanged(with_engines, workload):
    reference, scores = scores_like(workload, 1e-6)
    complete_engine_records(with_engines, workload, reference, {"fp32": scores})
    before = (with_engines / "manifest.json").read_bytes()
    complete_engine_records(with_engines, workload, reference, {"fp32": scores + 1})
    assert (with_engines / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(("count", "expected"), [(1, [3]), (2, [3, 9]), (3, [3, 5, 9]), (9, [3, 4, 5, 7, 9])])
def test_items_are_spread_over_all_there_are(count, expected):
    assert spread(np.array([3, 4, 5, 7, 9]), count).tolist() == expected


@pytest.mark.parametrize(
    ("images", "change", "says"),
    [
        (6, 0.3, "only 36 queries"),
        (120, 0.0, "no query's rank moved across a K"),
        (120, 0.3, None),
    ],
)
def test_a_gate_that_proves_little_says_so(images, change, says):
    # Noisy enough that rsum is far from 600.
    generator = np.random.default_rng(0)
    truth = np.arange(images).repeat(5)
    reference = generator.standard_normal((images, 5 * images)).astype(np.float32)
    reference += (np.arange(images)[:, None] == truth).astype(np.float32)
    scores = reference + np.float32(change) * generator.standard_normal(reference.shape).astype(np.float32)
    features = np.zeros((images, 1, 1), np.float32)
    gate = gate_with(reference, Limits(delta_rsum=600), Workload("noise", features, ["w"] * len(truth), truth))
    record = gate.compare(scores, "onnxruntime")
    if says is None:
        assert record["proves_little"] is None and "proves little" not in record["summary"]
    else:
        assert says in record["proves_little"]
        assert record["summary"].endswith(f"; this proves little: {record['proves_little']}")


def test_near_the_highest_rsum_a_gate_proves_little():
    truth = np.arange(600) // 5
    reference = (np.arange(120)[:, None] == truth).astype(np.float32)
    scores = reference.copy()
    scores[0, 0] = -1
    workload = Workload("easy", np.zeros((120, 1, 1), np.float32), ["w"] * 600, truth)
    record = gate_with(reference, Limits(delta_rsum=600), workload).compare(scores, "onnxruntime")
    assert record["proves_little"] == "rsum 600.00 of at most 600"


def test_a_gate_on_scores_is_not_judged_by_its_queries(workload):
    reference, scores = scores_like(workload, 1e-6)
    assert gate_with(reference, Limits(max_abs=1e-4), workload).compare(scores, "x")["proves_little"] is None


def test_a_limit_takes_images_spread_over_the_split_with_their_captions(tiny_folder, workload):
    subset = data_workload(tiny_folder / "data", "test", limit=2)
    assert np.array_equal(subset.features, workload.features[[0, 5]])
    assert list(subset.captions) == [*workload.captions[:5], *workload.captions[25:30]]
    assert subset.image_of_caption.tolist() == [0] * 5 + [1] * 5
    assert data_workload(tiny_folder / "data", "test", limit=6).description == workload.description
