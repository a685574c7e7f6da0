"""A gallery to attack, and system calls that fail as on file systems without locks."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caan.runtime import Retriever
from caan.runtime.index import Images, IndexOptions, index_items

IMAGES = 200  # two blocks


@pytest.fixture(scope="session")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan", "onnxruntime", threads=1)


@pytest.fixture(scope="session")
def features():
    return np.random.default_rng(0).standard_normal((IMAGES, 5, 12)).astype(np.float32)


@pytest.fixture
def index(retriever, tiny_folder, tmp_path):
    """index(features, target, **options): a gallery in tmp_path, its images named from `first` on."""

    def call(features, target="gallery", first=0, by=None, **options):
        made_by = retriever if by is None else by
        ids = [f"{first + number}.jpg" for number in range(len(features))]
        source = Images(made_by, features)
        return index_items(made_by, tiny_folder / "model.caan", source, tmp_path / target, ids, IndexOptions(**options))

    return call


@pytest.fixture
def gallery(index, features, tmp_path) -> Path:
    index(features)
    return tmp_path / "gallery"


@pytest.fixture
def caan():
    """The command, to run as a separate process."""
    return Path(sys.executable).with_name("caan")


@pytest.fixture
def strace(tmp_path):
    """strace(injection): the prefix of a command whose system calls fail as given."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace, to make system calls fail")
    probe = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"this machine doesn't let us trace: {probe.stderr.strip()}")
    return lambda injection: ["strace", "-f", "-qq", "-o", tmp_path / "trace", "-e", f"inject={injection}"]


class Interrupted:
    """A backend that calls `meanwhile` once, while it encodes."""

    def __init__(self, backend, meanwhile):
        self._backend, self._meanwhile = backend, meanwhile

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def encode_images(self, features):
        if self._meanwhile is not None:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return self._backend.encode_images(features)
