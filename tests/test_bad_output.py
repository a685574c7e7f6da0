"""Results that can't be written: existing, misplaced, forbidden or on a full disk; no partial file is ever left."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caan.bench import run as bench_run
from caan.data.scan import write_split
from caan.data.vocabulary import Vocabulary
from caan.errors import OutputError
from caan.export import bundle_from_checkpoint as to_bundle
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import save_checkpoint
from caan.runtime import Gallery

FULL = "free some space"


@pytest.fixture
def index(tiny_folder, tiny_data):
    """index(target, *options): the arguments of `caan index` of the tiny data set into a target."""
    features = tiny_data / "test_ims.npy"
    return lambda target, *options: ["index", tiny_folder / "model.caan", features, "-o", target, *options]


def old_gallery(folder):
    folder.mkdir()
    (folder / "gallery.json").write_text('{"format": "caan-gallery"}')
    return folder


def test_an_existing_bundle_is_kept_without_overwrite(refused, tiny_folder, tiny_bundle):
    says = ["model.caan exists already", "--overwrite", "name another with -o"]
    refused("export", tiny_folder / "model.pt", says=says)
    refused("export", tiny_folder / "model.pt", "-o", tiny_bundle, says=says)


def test_an_existing_gallery_is_kept_without_overwrite_and_replaced_with_it(refused, run, index, tmp_path):
    target = old_gallery(tmp_path / "gallery")
    refused(*index(target), says=["gallery exists already", "--overwrite"])
    assert run(*index(target, "--overwrite")).code == 0
    assert len(Gallery.open(target)) == 6


@pytest.mark.parametrize("name", ["notes.txt", "package.json", "vocab.json"])
def test_a_folder_that_caan_did_not_write_is_not_replaced(refused, index, tiny_folder, tmp_path, name):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / name).write_text("{}")
    says = ["home was not written by caan, so it is not replaced", "name another with -o"]
    refused("export", tiny_folder / "model.pt", "-o", "home", "--overwrite", says=says)
    refused(*index("home", "--overwrite"), says=says)


def test_a_file_in_the_outputs_place_is_not_replaced(refused, index, tiny_folder, tmp_path):
    (tmp_path / "mine").write_text("mine")
    for command in (["export", tiny_folder / "model.pt", "-o", "mine"], index("mine")):
        refused(*command, says=["mine exists already"])
        refused(*command, "--overwrite", says=["mine was not written by caan"])


@pytest.mark.skipif(os.name != "posix", reason="places as on POSIX")
@pytest.mark.parametrize("place", ["file/new", "file/sub/new", "/proc/new", "x" * 300])
def test_an_unusable_output_path(refused, index, tmp_path, place):
    (tmp_path / "file").touch()
    refused(*index(place), says=["can't write", place[:200], "name another place"])


def test_a_read_only_disk(refused, index, mounted):
    mounted("-o", "ro")
    refused(*index("mounted/gallery"), says=["can't write mounted/gallery: Read-only file system", "another place"])


def test_a_folder_without_permission(refused, index, tmp_path):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    refused(*index("closed/gallery"), says=["can't write closed/gallery: Permission denied"])


def test_an_index_on_a_full_disk_leaves_nothing(tiny_folder, tmp_path, small_disk):
    """In a separate process: with a memory map, a full disk would be a bus error."""
    np.save(tmp_path / "features.npy", np.ones((60, 5, 12), np.float32))
    caan = Path(sys.executable).with_name("caan")
    command = [caan, "index", tiny_folder / "model.caan", "features.npy", "-o", small_disk / "gallery"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    assert done.stderr.splitlines()[-1].startswith(f"Error: the disk of {small_disk} is full") and FULL in done.stderr
    assert list(small_disk.iterdir()) == []


def test_an_index_on_a_full_disk_keeps_the_old_gallery(refused, tiny_folder, tmp_path, small_disk):
    target = old_gallery(small_disk / "gallery")
    np.save(tmp_path / "features.npy", np.ones((60, 5, 12), np.float32))
    command = ["index", tiny_folder / "model.caan", "features.npy", "-o", target, "--overwrite"]
    refused(*command, says=["is full, gallery was not written", FULL])


def test_an_evaluation_whose_temporary_disk_is_full(tiny_folder, tmp_path, small_disk):
    write_split(tmp_path / "data", "test", np.ones((60, 5, 12), np.float32), [["w1"] * 5] * 60)
    caan = Path(sys.executable).with_name("caan")
    command = [caan, "eval", tiny_folder / "model.caan", "--data", "data"]
    environment = {**os.environ, "TMPDIR": str(small_disk)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    message = done.stderr.splitlines()[-1]
    assert message.startswith("Error: no room for the images' states in the temporary folder (No space left on device)")
    assert FULL in message and "TMPDIR" in message
    assert list(small_disk.glob("caan*")) == []


def test_an_export_on_a_full_disk_keeps_the_old_bundle(refused, tiny_folder, small_disk, traced):
    target = small_disk / "model.caan"
    target.mkdir()
    (target / "manifest.json").write_text('{"format": "caan-bundle"}')
    command = ["export", tiny_folder / "model.pt", "-o", target, "--overwrite"]
    refused(*command, says=["is full, model.caan was not written", FULL])


@pytest.fixture
def measured(monkeypatch):
    """The bench without measuring: one dummy row, in a result of 20 kB."""
    row = bench_run.Row(bench_run.RowSpec("none", "onnxruntime", "fp32", "cpu"), reason="x" * 20_000)
    result = bench_run.BenchResult("nothing", [row])
    monkeypatch.setattr(bench_run, "run_benches", lambda *arguments: [result])


def test_a_json_file_on_a_full_disk_keeps_the_old_one(run, tiny_bundle, small_disk, measured):
    (small_disk / "bench.json").write_text("old")
    done = run("bench", tiny_bundle, "--json", small_disk / "bench.json")
    assert done.code == 2 and "Traceback" not in done.err
    assert "is full, bench.json was not written" in done.err and FULL in done.err
    assert {path.name: path.read_text() for path in small_disk.iterdir()} == {"bench.json": "old"}


def test_a_json_file_that_can_not_be_written(run, tiny_bundle, tmp_path, measured):
    (tmp_path / "file").touch()
    done = run("bench", tiny_bundle, "--json", tmp_path / "file" / "bench.json")
    assert done.code == 2 and "Traceback" not in done.err
    assert "can't write" in done.err and "name another place" in done.err


def test_a_checkpoint_on_a_full_disk_keeps_the_old_one(small_disk, vocabulary):
    (small_disk / "model.pt").write_text("old")
    model = CAAN(CaanConfig(region_dim=12, embed_dim=64, word_dim=6, attention_dim=7, vocab_size=24))
    with pytest.raises(OutputError, match=r"model.pt was not written; free some space"):
        save_checkpoint(small_disk / "model.pt", model, vocabulary)
    assert {path.name: path.read_text() for path in small_disk.iterdir()} == {"model.pt": "old"}


def test_a_data_set_and_a_vocabulary_on_a_full_disk(small_disk):
    with pytest.raises(OutputError, match=FULL):
        write_split(small_disk, "test", np.ones((60, 5, 12), np.float32), [["w1"] * 5] * 60)
    words = [f"word{number}" for number in range(2_000)]
    with pytest.raises(OutputError, match=FULL):
        Vocabulary.build(words, min_count=1).save(small_disk / "vocab.json")
    assert list(small_disk.iterdir()) == []


def test_an_interrupted_export_leaves_nothing(run, tiny_folder, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(to_bundle, "export_graphs", interrupted)
    done = run("export", tiny_folder / "model.pt", "-o", tmp_path / "new.caan")
    assert done.code == 1 and "Aborted" in done.err
    assert list(tmp_path.iterdir()) == []
