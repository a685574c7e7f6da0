"""Wrong input to `caan build-engine`: refused in one or two lines, and the bundle stays as it was."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from caan.errors import install

from .conftest import tree, write_tiny_data

pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")

# The tiny model is untrained: its R@K is chance, and INT8 shifts it.
LENIENT = ("--gate-rsum", "600")
ONE = ("--profile", "scorer:one:images=1/2/4,captions=1/2/4,regions=1/5/5,words=2/4/8")


@pytest.fixture
def calibration_data(tmp_path):
    write_tiny_data(tmp_path / "calibration", images=64, split="train")
    return tmp_path / "calibration"


def test_valid_input_works(run, tiny_bundle, tiny_data, calibration_data):
    done = run("build-engine", tiny_bundle, "--int8", "--calibration-data", calibration_data, *LENIENT, *ONE)
    assert done.code == 0, done
    assert "engine not run: no NVIDIA GPU here" in done.out.splitlines()[-1]
    assert re.search(r"scorer +multiply-adds: 9\d\.\d % INT8", done.out)


# Which bundle, which precision


def test_no_bundle_here(refused):
    refused("build-engine", "--fp16", says=["no *.caan bundle in", "caan-export model.pt"])


def test_two_bundles_and_none_named(refused, tiny_bundle):
    shutil.copytree(tiny_bundle, tiny_bundle.parent / "other.caan")
    refused("build-engine", "--fp16", says=["several bundles here (model.caan, other.caan)", "name the one"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "not none"),
        (["--fp16", "--int8"], "not fp16 and int8"),
        (["--fp32", "--fp16"], "not fp16 and fp32"),
    ],
)
def test_exactly_one_precision_must_be_named(run, tiny_bundle, flags, says):
    before = tree(tiny_bundle)
    done = run("build-engine", tiny_bundle, *flags)
    assert done.code == 2 and "name one of --fp16, --int8 and --fp32" in done.err and says in done.err
    assert tree(tiny_bundle) == before


def test_int8_alone_does_not_swallow_the_bundle(refused, tiny_bundle):
    refused("build-engine", "--int8", "model.caan", says=["INT8 needs real data", "--calibration-data DIR"])


def test_int8_without_data_is_refused(refused, tiny_bundle):
    refused("build-engine", "--int8=auto", says=["INT8 needs real data", "--calibration-data DIR"])


def test_calibration_data_is_for_int8(run, tiny_bundle, calibration_data):
    done = run("build-engine", tiny_bundle, "--fp16", "--calibration-data", calibration_data)
    assert done.code == 2 and "are for --int8, not for --fp16" in done.err


# Calibration data


def test_calibration_data_of_another_feature_dimension(refused, tiny_bundle, calibration_data):
    np.save(calibration_data / "train_ims.npy", np.ones((64, 5, 13), np.float32))
    says = ["calibration", "dimension 13", "trained on 12"]
    refused("build-engine", "--int8", "--calibration-data", calibration_data, says=says)


def test_too_few_pairs_says_how_many_are_needed(refused, tiny_bundle, tmp_path):
    write_tiny_data(tmp_path / "few", images=20, split="train")
    says = ["20 images and 100 captions, too few", "at least 64 images and 1,000 pairs"]
    refused("build-engine", "--int8", "--calibration-data", "few", says=says)


def test_nan_in_the_calibration_data_names_the_image(refused, tiny_bundle, calibration_data):
    features = np.load(calibration_data / "train_ims.npy")
    features[41, 2, 3] = np.nan
    np.save(calibration_data / "train_ims.npy", features)
    refused("build-engine", "--int8", "--calibration-data", calibration_data, says=["image 41", "NaN"])


def test_a_missing_calibration_split_lists_those_there_are(refused, tiny_bundle, tiny_data):
    refused("build-engine", "--int8", "--calibration-data", tiny_data, says=["train_ims.npy is missing", "test"])


def test_an_unknown_calibration_method(refused, tiny_bundle, calibration_data):
    command = ["build-engine", "--int8", "--calibration-data", calibration_data, "--calibration-method", "best"]
    refused(*command, says=["unknown calibration method 'best'", "min-max", "entropy", "percentile", "mse"])


@pytest.mark.slow
def test_a_damaged_calibration_cache_is_calibrated_again(run, tiny_bundle, calibration_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    command = ["build-engine", tiny_bundle, "--int8", "--calibration-data", calibration_data, *LENIENT, *ONE]
    assert run(*command).code == 0
    whole = (tiny_bundle / "onnx" / "scorer.int8.onnx").read_bytes()
    (file,) = (tmp_path / "cache" / "calibration").iterdir()
    file.write_text(file.read_text().replace("0.", "9.", 1))
    again = run(*command)
    assert again.code == 0 and f"Warning: the cached calibration {file}" in again.err
    assert (tiny_bundle / "onnx" / "scorer.int8.onnx").read_bytes() == whole


# Profiles, targets, nodes


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("scorer:x:images=9/4/8,captions=1,regions=5,words=8", ["images", "9/4/8"]),
        ("scorer:x:images=1/9/8,captions=1,regions=5,words=8", ["images", "1/9/8"]),
        ("scorer:x:images=1,captions=1,regions=5,words=2/8/129", ["words", "128"]),
        ("scorer:x:images=1,captions=1,regions=0/5/5,words=8", ["regions"]),
        ("scorer:x:images=1,captions=1,regions=5", ["words"]),
        ("ranker:x:images=1", ["ranker", "scorer"]),
        ("nonsense", ["nonsense"]),
    ],
)
def test_an_impossible_profile(refused, tiny_bundle, profile, says):
    refused("build-engine", "--fp16", "--profile", profile, says=says)


def test_a_target_that_is_not_installed_names_the_extra(refused, tiny_bundle):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed here")
    refused("build-engine", "--fp16", "--target", "tensorrt", says=["tensorrt", "[gpu]"], code=4)


def test_tensorrt_rtx_not_installed_names_the_extra(refused, tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    refused("build-engine", "--fp16", "--target", "tensorrt-rtx", says=["[rtx]"], code=4)


def test_a_missing_onnx_names_the_extra(tiny_bundle):
    """In a separate process: a loaded module can't be missing."""
    command = "main(['build-engine', 'model.caan', '--fp16'])"
    code = f"import sys; sys.modules['onnx'] = None; from caan.cli import main; {command}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tiny_bundle.parent, capture_output=True, text=True)
    assert done.returncode == 4 and install("engine") in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_target(refused, tiny_bundle):
    refused("build-engine", "--fp16", "--target", "openvino", says=["openvino", "tensorrt", "tensorrt-rtx"])


def test_a_compute_capability_that_the_target_lacks(refused, tiny_bundle):
    command = ["build-engine", "--fp16", "--target", "tensorrt-rtx", "--compute-capability", "9.0"]
    refused(*command, says=["9.0", "7.5", "8.0", "8.6", "8.9", "12.0"])


def test_an_unknown_node(refused, tiny_bundle):
    refused("build-engine", "--fp16", "--keep-fp32", "scorer/Sv", says=["scorer/Sv", "caan inspect"])


def test_data_of_another_feature_dimension(refused, tiny_bundle, tiny_data):
    np.save(tiny_data / "test_ims.npy", np.ones((6, 5, 13), np.float32))
    refused("build-engine", "--fp16", "--data", tiny_data, says=["dimension 13", "trained on 12"])


# The gate


def test_a_missed_gate_exits_3(refused, tiny_bundle, tiny_data):
    command = ["build-engine", "--fp16", "--data", tiny_data, "--gate-score", "1e-9"]
    message = refused(*command, says=["fp16 fails its accuracy gate", "unchanged", "--keep-fp32"], code=3)
    assert "rsum" in message


def test_a_kept_failure_exits_3_and_warns_who_opens_it(run, tiny_bundle, tiny_data):
    done = run(
        "build-engine", tiny_bundle, "--fp16", "--data", tiny_data, "--gate-score", "1e-9", "--keep-failed", *ONE
    )
    assert done.code == 3 and "marked as failed" in done.err and "fp16: failed on" in done.out
    opened = run("eval", tiny_bundle, "--data", tiny_data, "--precision", "fp16")
    assert opened.code == 0 and "Warning:" in opened.err and "accuracy gate" in opened.err


# The disk, and Ctrl-C


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_bundle(refused, tiny_folder, mounted):
    target = mounted("-o", "size=200k") / "model.caan"  # room for the bundle, not for plans of megabytes
    shutil.copytree(tiny_folder / "model.caan", target)
    refused("build-engine", target, "--fp16", says=["is full, model.caan was not written"])


def test_a_full_temporary_disk(tiny_bundle, small_disk, tmp_path):
    before = tree(tiny_bundle)
    caan = Path(sys.executable).with_name("caan")
    done = subprocess.run(
        [caan, "build-engine", tiny_bundle, "--fp16"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(small_disk)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done
    assert "no room for work in progress" in done.stderr and "TMPDIR" in done.stderr
    assert tree(tiny_bundle) == before and list(small_disk.glob("caan*")) == []


@pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")
def test_ctrl_c_leaves_the_bundle_as_it_was(tiny_bundle, tmp_path):
    before = tree(tiny_bundle)
    # Many profiles make the build take many seconds, so that only the signal ends it in time.
    profiles = [f"--profile=scorer:p{n}:images=1/2/{n},captions=1/2/4,regions=1/5/5,words=2/4/8" for n in range(4, 64)]
    command = [Path(sys.executable).with_name("caan"), "build-engine", tiny_bundle, "--fp16", *profiles]
    # A shell's background job ignores Ctrl-C, and so would its children.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("building scorer"):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 1 and "Aborted" in rest and "Traceback" not in rest
    assert tree(tiny_bundle) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.caan"]


@pytest.mark.slow
def test_builds_in_two_processes_at_once(run, tiny_bundle, tmp_path):
    caan = Path(sys.executable).with_name("caan")
    commands = [[caan, "build-engine", tiny_bundle, flag, *ONE] for flag in ("--fp16", "--fp32")]
    processes = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for c in commands]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    engines = json.loads((tiny_bundle / "manifest.json").read_text())["engines"]
    assert sorted(engines) == ["tensorrt-rtx-fp16", "tensorrt-rtx-fp32"]
    assert run("build-engine", tiny_bundle, "--fp16", *ONE).code == 0


def test_the_gate_of_int8_runs_on_the_calibration_data_s_test_split(run, tiny_bundle, calibration_data):
    write_tiny_data(calibration_data)
    arguments = ("--int8", "--calibration-data", calibration_data, "--limit", 4, *LENIENT, *ONE)
    done = run("build-engine", tiny_bundle, *arguments)
    assert done.code == 0, done.err
    assert "the gate runs on the split test" in done.err
    assert "test, 6 images × 30 captions, of these 4 × 20" in done.out and "proves little: only 24 queries" in done.out
