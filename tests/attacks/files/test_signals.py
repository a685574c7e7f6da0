"""SIGTERM and SIGHUP end a command as Ctrl-C does; the next run removes leftovers of SIGKILL."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from caan._files import atomic_file, atomic_folder, leftovers, temporary_folder
from tests.conftest import tree

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals as on POSIX")

# A command that waits while it holds temporary files and folders of every kind: a child of the test, as `caan` is.
WAITING = """
import sys, time
from pathlib import Path
import click
from caan import cli
from caan._files import leftovers
from caan._files import atomic_file, atomic_folder, temporary_folder

@click.command()
def wait():
    with atomic_file(Path("page.html")) as page, atomic_folder(Path("model.caan")) as bundle:
        with temporary_folder("engine") as engine, temporary_folder("states") as states:
            for path in (page, bundle / "half", engine / "half", states / "half"):
                path.write_text("half")
            print("waiting", flush=True)
            time.sleep(120)

cli._run(wait, "caan-wait", [])
"""


@pytest.fixture
def waiting(tmp_path, scratch):
    """A process that holds half-written files; killed at the end of the test."""
    running = []

    def call(**how):
        environment = {**os.environ, "TMPDIR": str(scratch)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, **how}
        pipes.setdefault("preexec_fn", heed_signals)
        running.append(subprocess.Popen([sys.executable, "-c", WAITING], env=environment, **pipes))
        assert running[-1].stdout.readline() == "waiting\n", running[-1].communicate()
        assert len(tree(tmp_path)) > 6
        return running[-1]

    yield call
    for process in running:
        process.kill()
        process.communicate()


def heed_signals():
    """As in a terminal: tests that run in the background, or under nohup, hand on that these are ignored."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 1)], ids=lambda n: str(int(n))
)
def test_a_command_that_is_ended_leaves_nothing(waiting, tmp_path, number, code):
    process = waiting()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (code, "", "Aborted!")
    assert tree(tmp_path) == {"tmp": None}


def test_two_signals_in_a_row_do_not_disturb_the_cleaning(waiting, tmp_path):
    process = waiting()
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (129, 143) and tree(tmp_path) == {"tmp": None}


def test_nohup_is_respected(waiting, tmp_path):
    process = waiting(preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143 and tree(tmp_path) == {"tmp": None}


def again(tmp_path, monkeypatch, scratch):
    """The next run, in this process."""
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    with atomic_file(tmp_path / "page.html") as page, atomic_folder(tmp_path / "model.caan") as folder:
        page.write_text("whole")
        (folder / "whole").touch()
    with temporary_folder("bench"):
        pass


def test_the_next_run_removes_what_a_killed_one_left(waiting, tmp_path, scratch, monkeypatch):
    process = waiting()
    process.kill()
    process.wait()
    assert len(tree(tmp_path)) > 6
    again(tmp_path, monkeypatch, scratch)
    assert tree(tmp_path) == {"tmp": None, "page.html": b"whole", "model.caan": None, "model.caan/whole": b""}


def test_files_of_a_running_command_are_left_alone(waiting, tmp_path, scratch, monkeypatch):
    waiting()
    before = tree(tmp_path)
    again(tmp_path, monkeypatch, scratch)
    assert before.items() <= tree(tmp_path).items()


def test_files_of_similar_names_are_left_alone(tmp_path, scratch, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    mine = [
        tmp_path / ".page.html.backup12.tmp",
        tmp_path / ".model.caan.mine.tmp",
        tmp_path / ".page.html.caan-mine.tmp",
        scratch / "caan-results-20240101",
        scratch / "caan-engine",
    ]
    for path in mine:
        path.mkdir()
        (path / "mine").touch()
    again(tmp_path, monkeypatch, scratch)
    assert [path for path in mine if not (path / "mine").exists()] == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to give files away")
def test_files_of_others_and_links_are_left_alone(tmp_path, scratch, monkeypatch):
    theirs, link = (scratch / f"caan-{job}-{leftovers._machine()}01234567.tmp" for job in ("engine", "states"))
    far, forgotten = (scratch / f"caan-{job}-{other_machine()}01234567.tmp" for job in ("far", "forgotten"))
    for folder in (far, forgotten):
        (folder / "inside").mkdir(parents=True)
    os.utime(forgotten, (0, 0))
    (theirs / "inside").mkdir(parents=True)
    os.chown(theirs, 4321, 4321)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    link.symlink_to(tmp_path / "elsewhere")
    again(tmp_path, monkeypatch, scratch)
    assert (theirs / "inside").exists() and (tmp_path / "elsewhere" / "mine").exists()
    # Another machine's, on a shared drive: its locks may not be visible here.
    assert (far / "inside").exists() and not forgotten.exists()


def other_machine():
    return "ffff" if leftovers._machine() != "ffff" else "0000"


def children_of(process):
    return [child.pid for child in psutil.Process(process.pid).children()]


def is_alive(number):
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_a_bench_ends_with_its_workers(start, home, scratch, tiny_folder):
    process = start("bench", "model.caan", "--data", tiny_folder / "data", "--rounds", 1000, "--json", "out.json")
    lines = iter(process.stderr.readline, "")
    assert any("round 1" in line for line in lines)
    workers = children_of(process)
    assert workers
    before = sorted(path.name for path in home.iterdir() if path.name.startswith("."))
    assert len(before) == 1 and list(scratch.iterdir())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert list(scratch.iterdir()) == [] and not list(home.glob(".*")) and not (home / "out.json").exists()
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [number for number in workers if is_alive(number)] == []


def test_an_interrupted_index_says_how_to_resume(start, home):
    np.save(home / "many.npy", np.ones((60_000, 5, 12), np.float32))
    process = start("index", "model.caan", "many.npy", "-o", "new")
    while not (home / "new.partial" / "journal.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "rerun the same command to resume" in err
    assert (home / "new.partial" / "states.bin").exists() and not (home / "new").exists()


@pytest.mark.slow
def test_a_training_stops_between_two_steps(start, home, tiny_folder):
    for split in ("train", "dev"):
        for end in ("ims.npy", "caps.txt"):
            (home / f"{split}_{end}").write_bytes((tiny_folder / "data" / f"test_{end}").read_bytes())
    process = start("train", ".", "-o", "new.pt", "--epochs", 1_000_000)
    while not (home / "new.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143 and "rerun the same command to resume" in err
    assert (home / "new.pt.resume").exists() and not list(home.glob(".*"))
