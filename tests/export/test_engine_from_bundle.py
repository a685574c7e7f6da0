"""Adding a precision and its engines to a bundle: records, kept failures, and no partial results."""

import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import onnx
import pytest

from caan.accuracy.gate import AccuracyGate, Limits
from caan.accuracy.workload import data_workload
from caan.bundle import GRAPHS, change_bundle, open_bundle
from caan.calibration.calibrate import calibrate
from caan.data.scan import open_split
from caan.engines.record import NOT_RUN
from caan.errors import BundleError, ExportError, GateError, InputError
from caan.export import engine_from_bundle
from caan.export.engine_from_bundle import EngineJob, build_engine
from caan.export.plan_from_graph import BuildOptions
from caan.export.profiles import parse_profiles
from caan.export.targets import open_target

from ..conftest import write_tiny_data

pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")

PROFILES = [
    "image_encoder:one:images=1/4/8,regions=1/5/5",
    "text_encoder:one:captions=1/4/8,words=2/8/16",
    "scorer:one:images=1/4/8,regions=1/5/5,captions=1/4/8,words=2/8/16",
]
ENGINE = {"fp32": "tensorrt-rtx-fp32", "fp16": "tensorrt-rtx-fp16", "int8": "tensorrt-rtx-int8"}


@pytest.fixture(scope="module")
def job(tiny_folder):
    bundle = open_bundle(tiny_folder / "model.caan")
    profiles = parse_profiles(PROFILES, bundle.config, bundle.manifest["limits"])
    return EngineJob("fp16", open_target("tensorrt-rtx"), profiles, BuildOptions())


@pytest.fixture(scope="module")
def calibration(tiny_folder, make_once):
    folder = make_once("calibration-data", lambda folder: write_tiny_data(folder, images=64, split="train"))
    return calibrate(open_bundle(tiny_folder / "model.caan"), open_split(folder, "train"), method="min-max")


@pytest.fixture
def gate(tiny_folder):
    """A gate on the tiny data set that every precision passes."""
    workload = data_workload(tiny_folder / "data", "test")
    return AccuracyGate.open(workload, open_bundle(tiny_folder / "model.caan"), None, Limits(delta_rsum=600.0))


def limited(gate, **limits):
    return AccuracyGate(gate.workload, gate.reference, gate.reference_name, Limits(**limits))


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graphs_plans_and_records_of_every_precision(tiny_bundle, job, gate, calibration, precision):
    report = build_engine(
        tiny_bundle,
        replace(job, precision=precision),
        gate=gate,
        calibration=calibration if precision == "int8" else None,
    )
    bundle = open_bundle(tiny_bundle)
    assert bundle.precisions == list(dict.fromkeys(["fp32", precision])) and report.engine == ENGINE[precision]
    record = bundle.manifest["engines"][ENGINE[precision]]
    assert (record["target"], record["precision"], record["run"]) == ("tensorrt-rtx", precision, NOT_RUN)
    assert record["version"] == job.target.version
    for name in GRAPHS:
        plan = tiny_bundle / "engines" / ENGINE[precision] / f"{name}.plan"
        assert bundle.manifest["files"][f"engines/{ENGINE[precision]}/{name}.plan"]["size"] == plan.stat().st_size > 0
        assert record["onnx"][name] == bundle.hash_of(f"onnx/{name}.{precision}.onnx")
        (profile,) = record["profiles"][name]
        assert profile["name"] == "one"
    entry = bundle.manifest["precisions"][precision]
    assert entry["status"] == "passed"
    assert entry["checks"][-1]["data"].startswith("data test, 6 images") and "device" in entry["checks"][-1]
    if precision == "int8":
        assert entry["calibration"]["pairs"] > 0
        assert entry["nodes"]["scorer"]["nodes"]["FP16"].count("scorer/av_V") == 1
    json.loads((tiny_bundle / "manifest.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_without_data_the_precision_is_ungated_and_checked_on_random_inputs(tiny_bundle, job):
    entry = build_engine(tiny_bundle, job).precision
    assert entry["status"] == "ungated" and [check["data"] for check in entry["checks"]] == ["random inputs"]


def test_a_missed_gate_leaves_the_bundle_as_it_was(tiny_bundle, job, gate):
    before = content(tiny_bundle)
    with pytest.raises(GateError, match=r"fp16 fails its accuracy gate on data test.*unchanged"):
        build_engine(tiny_bundle, job, gate=limited(gate, max_abs=1e-9))
    assert content(tiny_bundle) == before
    assert sorted(path.name for path in tiny_bundle.parent.iterdir()) == ["model.caan"]


def test_a_kept_failure_is_marked(tiny_bundle, job, gate):
    report = build_engine(tiny_bundle, replace(job, keep_failed=True), gate=limited(gate, max_abs=1e-9))
    assert isinstance(report.failure, GateError)
    entry = open_bundle(tiny_bundle).manifest["precisions"]["fp16"]
    assert entry["status"] == "failed" and entry["checks"][-1]["passed"] is False


@pytest.mark.slow
def test_a_passing_build_clears_the_mark_and_the_same_graphs_keep_their_checks(tiny_bundle, job, gate):
    build_engine(tiny_bundle, replace(job, keep_failed=True), gate=limited(gate, max_abs=1e-9))
    build_engine(tiny_bundle, job, gate=gate)
    entry = build_engine(tiny_bundle, job).precision
    assert entry["status"] == "passed" and [check.get("passed") for check in entry["checks"]] == [None, False, True]


def test_other_graphs_of_the_precision_lose_the_old_checks_and_the_old_engines(tiny_bundle, job, gate):
    build_engine(tiny_bundle, job, gate=gate)
    named = replace(job, options=BuildOptions(compute_capabilities=("8.6",)), keep_fp32=["scorer/Su"])
    entry = build_engine(tiny_bundle, named).precision
    assert entry["status"] == "ungated" and entry["kept_fp32"] == ["scorer/Su"]
    assert [check["data"] for check in entry["checks"]] == ["random inputs"]
    bundle = open_bundle(tiny_bundle)
    assert list(bundle.manifest["engines"]) == ["tensorrt-rtx-fp16-sm86"]
    assert not (tiny_bundle / "engines" / "tensorrt-rtx-fp16" / "scorer.plan").exists()
    assert bundle.manifest["engines"]["tensorrt-rtx-fp16-sm86"]["compute_capabilities"] == ["8.6"]


def test_int8_without_calibration_is_refused_until_the_bundle_has_it(tiny_bundle, job, gate, calibration):
    int8 = replace(job, precision="int8")
    with pytest.raises(InputError, match="--calibration-data"):
        build_engine(tiny_bundle, int8, gate=gate)
    first = build_engine(tiny_bundle, int8, calibration=calibration, gate=gate)
    again = build_engine(tiny_bundle, int8)
    assert again.record["onnx"] == first.record["onnx"] and again.precision["status"] == "passed"


def test_a_scale_100_times_too_large_misses_the_gate(tiny_bundle, job, gate, calibration, monkeypatch):
    honest = engine_from_bundle.PrecisionPass.graphs

    def broken(self, nodes=()):
        made = honest(self, nodes)
        for initializer in made.graphs["scorer"].graph.initializer:
            if initializer.name == "cat_1_scale":
                scale = onnx.numpy_helper.to_array(initializer) * np.float16(100)
                initializer.CopyFrom(onnx.numpy_helper.from_array(scale, initializer.name))
        return made

    int8, close = replace(job, precision="int8"), limited(gate, max_abs=0.05)
    build_engine(tiny_bundle, int8, gate=close, calibration=calibration)
    before = content(tiny_bundle)
    monkeypatch.setattr(engine_from_bundle.PrecisionPass, "graphs", broken)
    with pytest.raises(GateError, match="int8 fails"):
        build_engine(tiny_bundle, int8, gate=close, calibration=calibration)
    assert content(tiny_bundle) == before


@pytest.mark.slow
def test_auto_takes_the_most_harmful_nodes_back_until_the_gate_holds(tiny_bundle, job, gate, calibration):
    """One product gets a range 100 times too large: only it returns to FP16, and the gate passes."""
    ranges = {name: dict(values) for name, values in calibration.ranges.items()}
    ranges["scorer"]["cat_1"] *= 100
    spoilt = replace(calibration, ranges=ranges)
    said = []
    report = build_engine(
        tiny_bundle,
        replace(job, precision="int8", auto=True),
        gate=limited(gate, max_abs=0.05),
        calibration=spoilt,
        progress=said.append,
    )
    entry = report.precision
    assert entry["status"] == "passed" and entry["kept_fp16"] == ["scorer/A_Hu"]
    assert entry["sensitivity"][0]["node"] == "scorer/A_Hu" and len(entry["sensitivity"]) == 16
    assert any(line.startswith("scorer/A_Hu returns to FP16: alone it changes scores by") for line in said)
    assert report.graphs.share_of_int8("scorer") < 100


@pytest.mark.slow
def test_sensitivity_is_measured_when_asked(tiny_bundle, job, gate, calibration):
    sensitive = replace(job, precision="int8", sensitivity=True)
    costs = build_engine(tiny_bundle, sensitive, gate=gate, calibration=calibration).precision["sensitivity"]
    assert [cost["mean_abs"] for cost in costs] == sorted((cost["mean_abs"] for cost in costs), reverse=True)


def test_a_bundle_exported_anew_meanwhile_is_left_alone(tiny_bundle, tiny_folder, job, monkeypatch):
    honest = engine_from_bundle.build_plan

    def replaced(*arguments):
        def another_model(folder, manifest):
            (folder / "onnx" / "scorer.fp32.onnx").unlink()
            (folder / "onnx" / "scorer.fp32.onnx").write_bytes(b"another")

        change_bundle(tiny_bundle, another_model)
        return honest(*arguments)

    monkeypatch.setattr(engine_from_bundle, "build_plan", replaced)
    with pytest.raises(BundleError, match="exported again while its engine was built"):
        build_engine(tiny_bundle, job)
    assert (tiny_bundle / "onnx" / "scorer.fp32.onnx").read_bytes() == b"another"
    assert not (tiny_bundle / "engines").exists()


def test_two_builds_at_once_both_arrive(tiny_bundle, job, monkeypatch):
    """Both read the bundle before either writes."""
    barrier = threading.Barrier(2)
    honest = engine_from_bundle.change_bundle

    def together(*arguments):
        barrier.wait(timeout=60)
        return honest(*arguments)

    monkeypatch.setattr(engine_from_bundle, "change_bundle", together)
    jobs = [job, replace(job, precision="fp32")]
    threads = [threading.Thread(target=build_engine, args=(tiny_bundle, one)) for one in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bundle = open_bundle(tiny_bundle)
    assert sorted(bundle.manifest["engines"]) == [ENGINE["fp16"], ENGINE["fp32"]]
    assert sorted(path.name for path in tiny_bundle.parent.iterdir()) == ["model.caan"]


def test_an_interrupted_build_leaves_nothing(tiny_bundle, job, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    before = content(tiny_bundle)
    monkeypatch.setattr(engine_from_bundle, "build_plan", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_engine(tiny_bundle, job)
    assert content(tiny_bundle) == before


def test_a_graph_that_tensorrt_refuses_leaves_the_bundle_as_it_was(tiny_bundle, job, monkeypatch):
    before = content(tiny_bundle)

    def refused(*arguments):
        raise ExportError("TensorRT refused")

    monkeypatch.setattr(engine_from_bundle, "build_plan", refused)
    with pytest.raises(ExportError):
        build_engine(tiny_bundle, job)
    assert content(tiny_bundle) == before


@pytest.mark.slow
def test_an_old_reader_s_open_files_are_not_written_to(tiny_bundle, job):
    """A bundle's files are hard-linked into the copy that replaces it, so they must never be written in place."""
    build_engine(tiny_bundle, job)
    other = shutil.copytree(tiny_bundle, tiny_bundle.parent / "other.caan", copy_function=_link)
    before = content(other)
    build_engine(tiny_bundle, replace(job, keep_fp32=["scorer/Su"]))
    assert content(other) == before


def _link(source, target):
    from pathlib import Path

    Path(target).hardlink_to(source)
