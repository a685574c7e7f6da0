"""`make gpu-kit`, and `make gpu-record` rehearsed where there is little else and no network, as on a GPU machine."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
from packaging.requirements import Requirement

from caan._machine import has_nvidia_driver
from caan.bench.gpu_record import __main__ as driver
from caan.bench.gpu_record import kit as kits
from caan.bench.gpu_record import make_kit
from caan.bench.gpu_record.plan import STEPS, TOTAL_SECONDS, Step, StepSettings
from caan.bench.gpu_record.record import Record
from caan.bench.gpu_record.steps.gpu_tests import _OUTCOME
from caan.errors import InputError, MissingError

# Packages of a machine with a GPU, besides their dependencies; neither tabulate nor tqdm. The kit would bring msgspec,
# which is compiled, but here pip has no network.
THERE = ("torch", "triton", "onnx", "onnxruntime", "numpy", "click", "pytest", "msgspec")
NO_GPU = "there is no NVIDIA GPU here"
# A stand-in for Nsight Compute: runs the program and prints a report.
NCU = """#!/bin/sh
[ "$1" = --version ] && echo Version 0 && exit
while [ "$1" != -m ]; do last="$1"; shift; done
"$last" "$@" && echo '"ID","Kernel Name","Section Name","Metric Name","Metric Unit","Metric Value"' &&
echo '"0","score_kernel","GPU Speed Of Light Throughput","Duration","ms","1.25"' &&
echo '"0","score_kernel","Launch Statistics","Registers Per Thread","register/thread","168"'
"""


@pytest.fixture(scope="module")
def kit(tiny_folder, tmp_path_factory):
    """(folder, Kit) of the tiny model, where pip has no network."""
    folder = tmp_path_factory.mktemp("kit")
    data = shutil.copytree(tiny_folder / "data", folder / "tiny")
    shutil.copy(tiny_folder / "model.pt", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        patch.delenv("PIP_FIND_LINKS", raising=False)
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        return folder / "kit", make_kit.make_kit(folder / "kit", 60, data, tiny_folder / "model.caan")


@pytest.fixture(scope="module")
def machine(kit, tmp_path_factory):
    """machine(options…): `make gpu-record` in a bare environment: (exit code, record, page)."""
    folder = tmp_path_factory.mktemp("machine")
    if not (kit[0] / "project.tar.gz").is_file():
        pytest.skip("needs git, which lists the project's files")
    with tarfile.open(kit[0] / "project.tar.gz") as archive:
        archive.extractall(folder / "some name", filter="data")
    python = bare_environment(folder / "environment")
    (folder / "ncu").write_text(NCU)
    (folder / "ncu").chmod(0o755)

    def run(*options):
        out = folder / f"out{len(list(folder.glob('out*')))}"
        command = ["make", "gpu-record", f"PYTHON={python}", f"KIT={kit[0]}", f"RECORD={out}", "FLICKR8K="]
        command += [f"RECORD_OPTIONS={' '.join(options)}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["PATH"] = f"{folder}:{environment['PATH']}"
        done = subprocess.run(
            [*without_network(), *command], cwd=folder / "some name", env=environment, capture_output=True, text=True
        )
        print(done.stdout, done.stderr)
        (record,), (page,) = out.glob("*.json"), out.glob("*.md")
        print(page.read_text())
        return done.returncode, json.loads(record.read_text()), page.read_text()

    return run


def bare_environment(folder):
    """The Python of a virtual environment with links to THERE and their dependencies."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    waiting, done = [Requirement(name) for name in THERE], set()
    while waiting:
        requirement = waiting.pop()
        if requirement.name in done or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        done.add(requirement.name)
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            continue
        waiting += map(Requirement, found.requires or ())
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    return folder / "bin" / "python"


def without_network():
    """The command that disables the network, if this user may."""
    for command in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and not subprocess.run([*command, "true"], capture_output=True).returncode:
            return command
    return []


@pytest.mark.skipif(has_nvidia_driver(), reason="says what a machine without a GPU lacks")
def test_without_a_gpu_every_step_says_why_it_could_not_run(machine):
    code, record, page = machine()
    assert code == 0
    assert record["finished"] and not record["rehearsal"]
    assert list(record["steps"]) == [step.name for step in STEPS]
    assert record["steps"]["machine"]["status"] == "done"
    for step in STEPS[1:]:
        entry = record["steps"][step.name]
        assert entry["status"] == "could not run" and NO_GPU in entry["reason"]
        assert f"| {step.title} | – could not run: {NO_GPU}" in page


@pytest.mark.slow
def test_rehearsed_every_step_goes_its_whole_way(machine):
    code, record, page = machine("--rehearse")
    steps = record["steps"]
    statuses = {name: entry["status"] for name, entry in steps.items()}
    could_not_run = {"onnxruntime_cuda": "onnxruntime_gpu", "tensorrt_rtx": "tensorrt_rtx"}
    assert statuses == {step.name: "could not run" if step.name in could_not_run else "done" for step in STEPS}, steps
    for name, wheel in could_not_run.items():
        assert f"there is no wheel {wheel}* in" in steps[name]["reason"] and steps[name]["reason"] in page
    assert code == 0
    assert "A rehearsal" in page
    speed, kernel = steps["speed"]["rows"], steps["kernel"]["rows"]
    assert {"bfloat16", "float32"} <= set(speed) and "÷ torch.compile" in speed["bfloat16"]
    assert {name.split()[0] for name in kernel} == {"float32", "float16", "bfloat16"}
    assert all(row["ok"] for row in kernel.values())
    assert any("golden" in name for name in kernel) and any("ONNX Runtime" in name for name in kernel)
    (profiled,) = steps["profile"]["rows"]["Registers Per Thread"].values()
    assert profiled == "168 register/thread"
    assert set(steps["gate"]["rows"]) == {"fp16", "bf16", "fp32"}
    assert steps["gpu_tests"]["rows"]["tests"]["skipped"] > 10


def test_the_limits_of_the_steps_leave_room_for_the_last():
    assert sum(step.seconds for step in STEPS[:-1]) <= TOTAL_SECONDS - 30
    assert TOTAL_SECONDS <= 480


@pytest.mark.parametrize(
    ("step", "seconds", "status", "reason"),
    [
        (STEPS[0], 0, "timed out", "ended after 0 s"),
        (Step("no such step", "", 20), 20, "failed", "its process ended with code 1"),
    ],
)
def test_a_step_that_takes_too_long_or_dies_is_recorded_and_the_next_one_runs(tmp_path, step, seconds, status, reason):
    record = Record(tmp_path / "record", [step], False)
    settings = StepSettings(tmp_path, None, tmp_path, record.json_file, ends=time.monotonic() + seconds)
    driver._run(step, settings, record)
    entry = json.loads(record.json_file.read_text())["steps"][step.name]
    assert entry["status"] == status and reason in entry["reason"]
    assert f"✗ {status}: {reason}" in record.page_file.read_text()
    assert record.has_failed()


def test_a_new_record_does_not_replace_an_old_one(tmp_path):
    first = driver._new_name(tmp_path, "gpu-record")
    first.with_name(f"{first.name}.json").touch()
    assert driver._new_name(tmp_path, "gpu-record").name == f"{first.name}-2"


@pytest.mark.parametrize(
    ("line", "word", "test"),
    [
        ("tests/a.py::b[1-torch.float16] PASSED [ 50%]", "PASSED", "tests/a.py::b[1-torch.float16]"),
        ("tests/a.py::b[Blocks(captions=1)] FAILED [  1%]", "FAILED", "tests/a.py::b[Blocks(captions=1)]"),
        ("[gw3] [ 50%] PASSED tests/a.py::b[Blocks(a=1, d=4)] ", "PASSED", "tests/a.py::b[Blocks(a=1, d=4)]"),
        ("tests/a.py::b SKIPPED (no GPU) [100%]", "SKIPPED", "tests/a.py::b"),
        ("tests/a.py::b ", None, "tests/a.py::b"),
    ],
)  # fmt: skip
def test_outcomes_are_read_from_pytests_lines(line, word, test):
    match = _OUTCOME.fullmatch(line.rstrip())
    assert (match["early"] or match["late"], match["test"]) == (word, test)


def test_a_kit_without_a_network_holds_the_rest_and_says_what_is_missing(kit):
    folder, built = kit
    contents = (folder / make_kit.CONTENTS).read_text()
    assert built.table() in contents
    lacking = {item.what for item in built.items if not item.fits}
    assert {"wheel tabulate", "wheel psutil", "wheel nvidia-ml-py", "wheel onnxruntime-gpu"} <= lacking
    assert "pip could not get it" in contents
    assert np.load(folder / "data" / "reference.npy").shape == (6, 30)


def test_missing_packages_are_unpacked_from_the_kit(tmp_path, monkeypatch):
    """A package is found by its module's name, which may differ from the wheel's."""
    (tmp_path / "wheels").mkdir()
    for name in (
        "nvidia_ml_py-13.0-py3-none-any",
        "psutil-7.0-cp36-abi3-manylinux_2_28_x86_64",
        "tqdm-4.0-py3-none-any",
    ):
        with zipfile.ZipFile(tmp_path / "wheels" / f"{name}.whl", "w") as wheel:
            wheel.writestr(f"{name.partition('-')[0]}.py", "")
    monkeypatch.setattr(kits, "find_spec", lambda module: None if module in ("pynvml", "psutil") else True)
    kits.unpack_missing(tmp_path, tmp_path / "target")
    assert sorted(path.name for path in (tmp_path / "target").iterdir()) == ["nvidia_ml_py.py", "psutil.py"]


def test_a_kit_keeps_its_size(monkeypatch, kit, tiny_folder, tmp_path):
    """1 MiB: the project's sources fit, a file of 2 MiB does not."""
    monkeypatch.setattr(make_kit, "_download", lambda name, to, python: str((to / "big").write_bytes(bytes(2 << 20))))
    monkeypatch.setattr(make_kit, "_project", lambda to: str((to / "small").write_bytes(bytes(1 << 10))))
    monkeypatch.setattr(make_kit, "_bundle", lambda data, bundle, to: str((to / "big").write_bytes(bytes(2 << 20))))
    built = make_kit.make_kit(tmp_path / "kit", 1, tiny_folder / "data")
    assert [item.what for item in built.items if item.fits] == ["the project"]
    assert make_kit._size(tmp_path / "kit") <= 1 << 20
    assert "only 1 MiB left; raise KIT_MB" in built.table()


def test_a_folder_that_is_not_a_kit_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(InputError, match="is not a kit"):
        make_kit.make_kit(tmp_path, 60, None)
    assert (tmp_path / "mine.txt").is_file()


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """(settings, folder of a wheel in pieces)."""
    monkeypatch.setattr(make_kit, "_PIECE", 100)
    folder = tmp_path / "kit" / "wheels"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "some_thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_thing_of_ours.py", f"NUMBER = {'1' * 300}\n")
    make_kit._cut(folder / "some_thing-1.0-py3-none-any.whl")
    monkeypatch.setattr(sys, "path", [*sys.path])
    return StepSettings(tmp_path / "kit", None, tmp_path, tmp_path / "record.json"), folder


def test_a_wheel_in_pieces_is_joined(pieces):
    settings, folder = pieces
    assert len(list(folder.glob("*.whl.*"))) > 2 and not list(folder.glob("*.whl"))
    assert kits.use_wheels(settings, "some_thing") == ["some_thing-1.0-py3-none-any.whl"]
    import some_thing_of_ours

    assert str(some_thing_of_ours.NUMBER) == "1" * 300


def test_a_piece_that_is_missing_or_damaged_is_refused(pieces):
    settings, folder = pieces
    first, *_, last = sorted(folder.glob("*.whl.*"))
    content = last.read_bytes()
    last.write_bytes(content[:-1] + b"?")
    with pytest.raises(InputError, match="do not match SHA256SUMS"):
        kits.use_wheels(settings, "some_thing")
    last.write_bytes(content)
    first.unlink()
    with pytest.raises(MissingError, match="pieces are in"):
        kits.use_wheels(settings, "some_thing")
