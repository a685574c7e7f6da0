"""Pipes in place of files: refused at once if a file is needed, read if a user passes one as text input."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from caan._files import open_regular, read_input, read_regular
from caan.bundle import open_bundle
from caan.calibration import cache as calibration_cache
from caan.data.scan import open_features, open_split, read_captions
from caan.data.vocabulary import Vocabulary
from caan.errors import BundleError, CaanWarning, CheckpointError, DataError
from caan.model.checkpoint import load_checkpoint
from caan.runtime import Retriever
from caan.runtime.scoring import tuning

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes as on POSIX")


@pytest.fixture
def pipe(tmp_path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


READERS = {
    "features": (open_features, DataError),
    "captions": (read_captions, DataError),
    "a vocabulary": (Vocabulary.load, DataError),
    "a checkpoint": (load_checkpoint, CheckpointError),
    "a bundle": (open_bundle, BundleError),
    "a file": (read_regular, OSError),
    "a text": (read_input, OSError),
}


@pytest.mark.parametrize("what", READERS)
def test_a_pipe_without_a_writer(pipe, what):
    read, error = READERS[what]
    with pytest.raises(error):
        read(pipe)


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device(device):
    with pytest.raises(OSError, match="it is a pipe or device, not a file"):
        open_regular(Path(device))


@pytest.mark.parametrize("name", ["manifest.json", "vocab.json", "onnx/scorer.fp32.onnx", "scorer_weights.npy"])
def test_a_pipe_in_a_bundle(refused, tiny_bundle, name):
    (tiny_bundle / name).unlink()
    os.mkfifo(tiny_bundle / name)
    with pytest.raises(BundleError):
        open_bundle(tiny_bundle)


@pytest.mark.parametrize("name", ["test_ims.npy", "test_caps.txt"])
def test_a_pipe_in_a_data_set(tiny_data, name):
    (tiny_data / name).unlink()
    os.mkfifo(tiny_data / name)
    with pytest.raises(DataError, match=name):
        open_split(tiny_data)


def test_a_pipe_in_place_of_the_tuning(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    retriever = Retriever.open(tiny_bundle, "onnxruntime")
    place = tuning._path(retriever.backend)
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    assert tuning.cached_tuning(retriever.backend) is None


def test_a_pipe_in_place_of_a_calibration(tmp_path, monkeypatch):
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    place = calibration_cache.cache_path({"key": 1})
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.warns(CaanWarning, match="damaged .*not a file"):
        assert calibration_cache.load({"key": 1}) is None


def test_captions_through_a_named_pipe(pipe):
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"a dog\n" + b"a cat\n" * 50_000))
    writer.start()
    found = read_captions(pipe)
    writer.join()
    assert (len(found), found[0], found[-1]) == (50_001, "a dog", "a cat")


@pytest.mark.parametrize("how", ["--captions /dev/stdin", "--captions <(cat)", "--captions -"])
def test_captions_from_a_shell(tiny_folder, tiny_data, tmp_path, how):
    from caan.runtime.index import Images, index_items

    retriever = Retriever.open(tiny_folder / "model.caan", "onnxruntime")
    images = Images(retriever, np.load(tiny_data / "test_ims.npy"))
    index_items(retriever, tiny_folder / "model.caan", images, tmp_path / "gallery")
    command = f"{Path(sys.executable).with_name('caan')} search {tmp_path / 'gallery'} -k 1 {how}"
    # A shell gives a background command, which <(cat) is, no input of its own.
    line = command.replace("<(cat)", "<(printf 'w1\\nw2 w3\\n')")
    done = subprocess.run(["bash", "-c", line], input="w1\nw2 w3\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith("w1\n") and "\n\nw2 w3\n" in done.stdout, done
