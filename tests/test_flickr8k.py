"""The main job on real input: a CAAN trained on Flickr8k, real photos' features and human captions."""

import shutil

import numpy as np
import pytest

from caan.accuracy.gate import DEFAULT_LIMITS, AccuracyGate, Limits
from caan.accuracy.workload import data_workload
from caan.bundle import open_bundle
from caan.calibration.calibrate import calibrate
from caan.data.scan import open_split
from caan.export.precision import PrecisionPass, gate_bundle
from caan.metrics import retrieval_metrics
from caan.runtime import Retriever
from tests.conftest import add_half_precision

pytestmark = pytest.mark.slow  # needs a trained model

IMAGES = 60


def test_onnxruntime_scores_real_pairs_as_pytorch_does(flickr8k, flickr8k_bundle):
    data = open_split(flickr8k)
    captions, truth = data.captions[: 5 * IMAGES], data.image_of_caption[: 5 * IMAGES]
    scores = {}
    for backend, path in (("torch", flickr8k / "model.pt"), ("onnxruntime", flickr8k_bundle)):
        retriever = Retriever.open(path, backend)
        scores[backend] = retriever.score_matrix(retriever.encode_images(data.features[:IMAGES]), captions)
    assert np.abs(scores["torch"] - scores["onnxruntime"]).max() <= 1e-5
    actual, expected = (retrieval_metrics(scores[name], truth) for name in ("onnxruntime", "torch"))
    assert abs(actual.rsum - expected.rsum) <= 0.1
    # 60 of the 1,000 photos are an easier task than the published one; a model that saw nothing gets about 55
    assert expected.rsum > 350


def test_a_typed_caption_finds_dogs_in_snow(flickr8k, flickr8k_bundle):
    data = open_split(flickr8k)
    retriever = Retriever.open(flickr8k_bundle)
    gallery = retriever.encode_images(data.features[:IMAGES], ids=data.ids and data.ids[:IMAGES])
    hits = retriever.search("Two dogs play in the snow", gallery, k=3)
    actual = [" ".join(data.captions[5 * hit.index : 5 * hit.index + 5]) for hit in hits]
    assert any("dogs" in text and "snow" in text for text in actual)


@pytest.fixture(scope="module")
def gate(flickr8k, flickr8k_bundle):
    """100 photos of the test split, 500 captions."""
    workload = data_workload(flickr8k, "test").subset(np.arange(0, 1000, 10))
    return AccuracyGate.open(workload, open_bundle(flickr8k_bundle), flickr8k / "model.pt", Limits(delta_rsum=2.0))


def test_fp16_graphs_hold_the_gate_on_real_pairs(flickr8k_bundle, gate, tmp_path):
    opened = open_bundle(flickr8k_bundle)
    made = PrecisionPass(opened, "fp16").graphs()
    record = gate.check(gate_bundle(opened, made, tmp_path / "fp16.caan"), "fp16")
    assert record["passed"], record["summary"]
    assert abs(record["parity"]["delta_rsum"]) <= 0.5
    # Different from FP32, or nothing was rounded
    assert 1e-4 < record["parity"]["max_abs"] < 2e-3 and record["parity"]["top10_overlap"] > 99


def test_the_compiled_scorer_holds_fp32s_gate_on_real_pairs(flickr8k_bundle, gate):
    pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
    strict = AccuracyGate(gate.workload, gate.reference, gate.reference_name, DEFAULT_LIMITS["fp32"])
    record = strict.check(flickr8k_bundle, "fp32", "native")
    assert record["passed"], record["summary"]
    assert record["metrics"] == record["reference"]


@pytest.fixture(scope="module")
def wide_gate(flickr8k, flickr8k_bundle):
    """250 photos of the test split, 1,250 captions, against the compiled scorer's FP32, which the test above gates.

    On the 100 photos above one query that finds another photo first is 1.0 of rsum, twice what is allowed.
    """
    pytest.importorskip("caan_native", reason="needs the package caan_native: make native")
    workload = data_workload(flickr8k, "test").subset(np.arange(0, 1000, 4))
    scores = Retriever.open(flickr8k_bundle, "native").score_dataset(workload.features, workload.captions)
    return AccuracyGate(workload, scores, "the compiled scorer in FP32", DEFAULT_LIMITS["bf16"])


def test_bfloat16_holds_fp16s_gate_on_real_pairs(flickr8k_bundle, wide_gate):
    if not pytest.importorskip("caan_native").has_native_bfloat16():
        pytest.skip("needs a processor that multiplies bfloat16")
    record = wide_gate.check(flickr8k_bundle, "bf16", "native")
    assert record["passed"] and record["allowed"] == {"delta_rsum": 0.5}, record["summary"]
    assert 1e-4 < record["parity"]["max_abs"] < 1e-2 and record["parity"]["top10_overlap"] > 99


def test_half_precision_states_hold_fp16s_gate_in_the_compiled_scorer(flickr8k_bundle, wide_gate, tmp_path):
    folder = shutil.copytree(flickr8k_bundle, tmp_path / "fp16.caan")
    add_half_precision(folder)
    record = wide_gate.check(folder, "fp16", "native")
    assert record["passed"] and record["allowed"] == {"delta_rsum": 0.5}, record["summary"]
    assert 1e-5 < record["parity"]["max_abs"] < 2e-3 and record["parity"]["top10_overlap"] > 99


def test_int8_graphs_calibrated_on_real_pairs_hold_the_gate(flickr8k, flickr8k_bundle, gate, tmp_path):
    opened = open_bundle(flickr8k_bundle)
    calibration = calibrate(opened, open_split(flickr8k, "train"), method="min-max")
    maker = PrecisionPass(opened, "int8", ranges=calibration.ranges)
    made = maker.graphs(maker.quantizable())
    record = gate.check(gate_bundle(opened, made, tmp_path / "int8.caan"), "int8")
    assert record["passed"], record["summary"]
    assert record["parity"]["max_abs"] < 0.05 and record["parity"]["top10_overlap"] > 95
    assert made.share_of_int8("scorer") > 95
    assert size_of(made.graphs) <= 0.45 * size_of(maker.sources)


def size_of(graphs):
    return sum(len(graph.SerializeToString()) for graph in graphs.values())
