"""Commands as separate processes, optionally in a mount namespace, with a temporary folder visible to the test."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CAAN = Path(sys.executable).with_name("caan")


@pytest.fixture
def scratch(tmp_path):
    """The temporary folder of the processes started by `caan` and `start`."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


@pytest.fixture
def start(tmp_path, scratch):
    """start(*arguments, **how): a command `caan`, started in tmp_path; it is ended with the test."""
    running = []

    def call(*arguments, **how):
        environment = {**os.environ, "TMPDIR": str(scratch), **how.pop("env", {})}
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, **how}
        running.append(subprocess.Popen([str(a) for a in (CAAN, *arguments)], env=environment, **how))
        return running[-1]

    yield call
    for process in running:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def caan(start):
    """caan(*arguments, **how): a command's exit code, standard output and standard error."""

    def call(*arguments, **how):
        process = start(*arguments, **how)
        out, err = process.communicate(timeout=300)
        assert "Traceback" not in err, err
        return process.returncode, out, err

    return call


@pytest.fixture
def shell(tmp_path, scratch):
    """shell(script): run by bash with the command as $caan; exit code, standard output and standard error."""

    def call(script, **environment):
        environment = {**os.environ, "TMPDIR": str(scratch), "caan": str(CAAN), **environment}
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture
def in_namespace(shell):
    """in_namespace(mounts, script): as `shell`, with private mounts."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        pytest.skip("needs Linux's mount namespaces")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this machine doesn't let us make a mount namespace")

    def call(mounts, script, **environment):
        inner = f"set -e\n{mounts}\nset +e\n{script}"
        return shell(f"unshare -m bash -c {shlex.quote(inner)}", **environment)

    return call


@pytest.fixture(scope="session")
def made(make_once, tiny_folder):
    """A folder with `model.caan` and `gallery`, images of it; and `features.npy`."""
    import numpy as np

    from caan.runtime import Retriever
    from caan.runtime.index import Images, index_items

    def make(folder):
        shutil.copytree(tiny_folder / "model.caan", folder / "model.caan")
        shutil.copy(tiny_folder / "model.pt", folder / "model.pt")
        features = np.random.default_rng(0).standard_normal((6, 5, 12)).astype(np.float32)
        np.save(folder / "features.npy", features)
        retriever = Retriever.open(folder / "model.caan")
        index_items(retriever, folder / "model.caan", Images(retriever, features), folder / "gallery")

    return make_once("files", make)


@pytest.fixture
def home(made, tmp_path):
    """tmp_path with a copy of `made` in it."""
    for path in made.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    return tmp_path
