"""Resuming an interrupted `caan index`: what is kept, repeated and cleaned up."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caan.errors import CaanWarning
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.writer import JOURNAL
from caan.runtime.index import Images, index_items
from tests.conftest import tree
from tests.runtime.galleries.conftest import BLOCK, IMAGES, Counted, names


def test_only_missing_blocks_are_encoded_again(write, retriever, features, half_done, tmp_path):
    counted = Counted(retriever.backend)
    write(features, backend=counted)
    assert counted.images == IMAGES - 3 * BLOCK
    write(features, target="expected")
    assert tree(tmp_path / "gallery") == tree(tmp_path / "expected")
    assert not half_done.exists()


def test_blocks_before_changed_features_are_kept(write, retriever, features, half_done, tmp_path):
    changed = features.copy()
    changed[2 * BLOCK + 5] += 1
    counted = Counted(retriever.backend)
    with pytest.warns(CaanWarning, match=r"an interrupted run left 128 encoded items in .*gallery.partial"):
        write(changed, backend=counted)
    assert counted.images == IMAGES - 2 * BLOCK
    write(changed, target="expected")
    assert tree(tmp_path / "gallery") == tree(tmp_path / "expected")


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"compact": True}])
def test_a_run_with_other_options_starts_over_and_says_so(write, retriever, features, half_done, tmp_path, options):
    counted = Counted(retriever.backend)
    with pytest.warns(CaanWarning, match="an interrupted run left 384 encoded items"):
        write(features, backend=counted, **options)
    assert counted.images == IMAGES
    write(features, target="expected", **options)
    assert tree(tmp_path / "gallery") == tree(tmp_path / "expected")


def test_another_model_starts_over(write, retriever, features, half_done, tmp_path):
    other = Counted(retriever.backend)
    other.model = replace(retriever.backend.model, encoders={"image": "another", "text": "another"})
    with pytest.warns(CaanWarning, match="of another model"):
        write(features, backend=other)
    assert other.images == IMAGES
    assert Gallery.open(tmp_path / "gallery").encoder == "another"


def test_a_run_resumes_with_a_moved_bundle(retriever, write, features, half_done, tiny_bundle, tmp_path):
    counted = Counted(retriever.backend)
    made_by = Retriever(counted)
    index_items(made_by, tiny_bundle, Images(made_by, features), tmp_path / "gallery")
    assert counted.images == IMAGES - 3 * BLOCK
    assert Gallery.open(tmp_path / "gallery").bundle == "../model.caan"


@pytest.mark.parametrize(("cut", "blocks"), [(1, 2), (20, 2), (150, 1)])
def test_a_truncated_journal(write, retriever, features, half_done, tmp_path, cut, blocks):
    content = (half_done / JOURNAL).read_bytes()
    (half_done / JOURNAL).write_bytes(content[:-cut])
    counted = Counted(retriever.backend)
    write(features, backend=counted)
    assert counted.images == IMAGES - blocks * BLOCK
    write(features, target="expected")
    assert tree(tmp_path / "gallery") == tree(tmp_path / "expected")


GARBAGE = [
    b"\xff\xfe\x00",
    b"[" * 100_000 + b"\n",
    b"null\n",
    b'{"blocks": "x"}\n',
    b'{"blocks": -1}\n',
    b'{"blocks": 10000000000000000000000000}\n',
]
LINES = [
    b"5\n",
    b"null\n",
    b"[" * 100_000 + b"\n",
    b'{"items": 128}\n',
    b'{"items": 128, "rows": -640, "sha256": "", "crc32": 0}\n',
    b'{"items": 128, "rows": 1e999, "sha256": "", "crc32": 0}\n',
    b'{"items": 128, "rows": 1000000000000000000000, "sha256": "x", "crc32": 0}\n',
]


@pytest.mark.filterwarnings("ignore::caan.errors.CaanWarning")
@pytest.mark.parametrize("number", range(len(GARBAGE) + len(LINES)))
def test_a_journal_with_garbage(write, features, half_done, tmp_path, number):
    header = (half_done / JOURNAL).read_bytes().split(b"\n")[0] + b"\n"
    (half_done / JOURNAL).write_bytes((GARBAGE + [header + line for line in LINES])[number])
    write(features)
    write(features, target="expected")
    assert tree(tmp_path / "gallery") == tree(tmp_path / "expected")


@pytest.mark.filterwarnings("ignore::caan.errors.CaanWarning")
@pytest.mark.parametrize("kept", [0, 1, BLOCK * 5 * 82 + 7])
def test_states_shorter_than_the_journal_says(write, retriever, features, half_done, tmp_path, kept):
    with (half_done / "states.bin").open("r+b") as file:
        file.truncate(kept)
    counted = Counted(retriever.backend)
    write(features, backend=counted)
    assert counted.images == IMAGES - kept // (BLOCK * 5 * 82) * BLOCK
    write(features, target="expected")
    assert tree(tmp_path / "gallery") == tree(tmp_path / "expected")


def test_a_failure_before_the_first_new_block_keeps_earlier_blocks(write, retriever, features, half_done):
    before = tree(half_done)
    with pytest.raises(KeyboardInterrupt):
        write(features + 1, backend=Counted(retriever.backend, 10))
    assert tree(half_done) == before


def test_a_failure_in_the_first_block_leaves_nothing(write, retriever, features, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(features, backend=Counted(retriever.backend, 10))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")
def test_ctrl_c_in_the_command(run, retriever, tiny_folder, features, tmp_path, monkeypatch):
    np.save(tmp_path / "features.npy", features)
    counted = Counted(retriever.backend, 3 * BLOCK + 10)
    monkeypatch.setattr(Retriever, "open", lambda *arguments, **options: Retriever(counted))
    command = ["index", tiny_folder / "model.caan", tmp_path / "features.npy", "-o", tmp_path / "gallery"]
    done = run(*command)
    assert done.code == 1 and "Aborted" in done.err and "rerun the same command" in done.err
    assert not (tmp_path / "gallery").exists()
    counted._fails_at = None
    counted.images = 0
    assert run(*command).code == 0
    assert counted.images == IMAGES - 3 * BLOCK


def test_nan_in_image_300_names_it_and_publishes_nothing(run, tiny_folder, features, tmp_path):
    features = features.copy()
    features[300, 2, 3] = np.nan
    np.save(tmp_path / "features.npy", features)
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in names(IMAGES)))
    command = ["index", tiny_folder / "model.caan", tmp_path / "features.npy", "-o", tmp_path / "gallery"]
    done = run(*command, "--ids", tmp_path / "ids.txt")
    assert done.code == 2 and "image 300 (300.jpg) can't be encoded: its features hold NaN" in done.err
    assert not (tmp_path / "gallery").exists()


def test_a_full_disk_keeps_finished_blocks(tiny_folder, features, mounted, tmp_path):
    disk = mounted("-o", "size=180k")
    np.save(tmp_path / "features.npy", features)
    caan = Path(sys.executable).with_name("caan")
    command = [caan, "index", tiny_folder / "model.caan", "features.npy", "-o", disk / "gallery"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"Error: the disk of {disk} is full")
    assert "free some space and rerun the same command to resume" in message
    assert [path.name for path in disk.iterdir()] == ["gallery.partial"]
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0
    assert len(Gallery.open(disk / "gallery")) == IMAGES
