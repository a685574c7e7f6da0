"""Links in place of a gallery's files: their targets are not changed."""

import os

import numpy as np
import pytest

from caan.errors import BundleError, CaanWarning, OutputError
from caan.runtime import Gallery, Retriever
from caan.runtime.index import delete_items
from tests.attacks.galleries.conftest import IMAGES
from tests.conftest import tree
from tests.runtime.galleries.conftest import Counted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links as on POSIX")
FILES = ["states.bin", "lengths.bin", "ids.jsonl", "gallery.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_gallery_whose_file_is_a_link_is_not_written(index, features, gallery, tmp_path, name):
    (gallery / name).rename(tmp_path / "elsewhere")
    (gallery / name).symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=f"{name} is a link"):
        index(features[:20], append=True, first=IMAGES)
    if name == "gallery.json":
        with pytest.raises(OutputError, match=f"{name} is a link"):
            delete_items(gallery, ["3.jpg"])
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", FILES)
def test_a_gallery_of_links_is_read(gallery, retriever, tmp_path, name):
    """As in content-addressed stores; the hashes verify the content."""
    (gallery / name).rename(tmp_path / "elsewhere")
    (gallery / name).symlink_to(tmp_path / "elsewhere")
    assert len(retriever.search("w1", Gallery.open(gallery), 3)) == 3


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.jsonl.tmp", "states.new.bin", "states.bin.tmp"])
def test_links_at_the_paths_an_append_writes(index, features, gallery, tmp_path, name):
    (tmp_path / "victim").write_bytes(b"theirs")
    (gallery / name).symlink_to(tmp_path / "victim")
    with pytest.raises(OutputError, match=f"{name} is a link"):
        index(features[:20], append=True, first=IMAGES)
    assert (tmp_path / "victim").read_bytes() == b"theirs"


def test_a_backup_of_hard_links_is_not_changed_by_an_append(index, features, gallery, tmp_path):
    (tmp_path / "backup").mkdir()
    for path in gallery.iterdir():
        (tmp_path / "backup" / path.name).hardlink_to(path)
    before = tree(tmp_path / "backup")
    assert len(index(features[:20], append=True, first=IMAGES)) == IMAGES + 20
    assert tree(tmp_path / "backup") == before


def test_an_append_writes_to_no_published_file(index, features, gallery):
    handles = {path.name: os.open(path, os.O_RDONLY) for path in gallery.iterdir()}
    before = {name: (os.fstat(handle).st_size, os.fstat(handle).st_mtime_ns) for name, handle in handles.items()}
    index(features[:20], append=True, first=IMAGES)
    after = {name: (os.fstat(handle).st_size, os.fstat(handle).st_mtime_ns) for name, handle in handles.items()}
    for handle in handles.values():
        os.close(handle)
    assert after == before


def test_an_append_keeps_modes_and_owners(index, features, gallery):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    for path in gallery.iterdir():
        path.chmod(0o600)
        os.chown(path, 12345, 12345)
    index(features[:20], append=True, first=IMAGES)
    for path in gallery.iterdir():
        if path.name != "gallery.json":  # replaced as every file is
            assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, 12345), path


def test_work_in_progress_that_is_a_link_to_another_gallery(index, features, gallery, tmp_path):
    before = tree(gallery)
    (tmp_path / "new.partial").symlink_to(gallery)
    with pytest.raises(OutputError, match=r"new\.partial"):
        index(features, "new")
    assert tree(gallery) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["states.bin", "journal.jsonl", "gallery.json"])
def test_a_link_in_work_in_progress(index, features, gallery, tmp_path, name):
    before = tree(gallery)
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / name).symlink_to(gallery / "states.bin")
    with pytest.raises(OutputError, match=f"{name} is a link"):
        index(features, "new")
    assert tree(gallery) == before


def test_work_in_progress_of_another_user(index, features, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a folder away")
    (tmp_path / "new.partial").mkdir()
    os.chown(tmp_path / "new.partial", 12345, 12345)
    with pytest.raises(OutputError, match=r"new\.partial.* belongs to another user"):
        index(features, "new")
    assert tree(tmp_path) == {"new.partial": None}


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_gallery_s_file_does_not_block(gallery, name):
    (gallery / name).unlink()
    os.mkfifo(gallery / name)
    with pytest.raises(BundleError, match="gallery"):
        Gallery.open(gallery)


def test_work_in_progress_with_hard_links_elsewhere(index, retriever, features, tmp_path):
    """An interrupted run's work was backed up by hard links: the resumed run leaves the backup alone."""
    many = np.concatenate([features] * 2)
    with pytest.raises(KeyboardInterrupt):
        index(many, by=Retriever(Counted(retriever.backend, IMAGES)))
    (tmp_path / "backup").hardlink_to(tmp_path / "gallery.partial" / "states.bin")
    before = (tmp_path / "backup").read_bytes()
    changed = many + np.float32(1)
    with pytest.warns(CaanWarning, match="an interrupted run left"):
        assert len(index(changed)) == 2 * IMAGES
    assert before and (tmp_path / "backup").read_bytes() == before


def test_an_old_gallery_pending_removal_is_not_written_to(index, retriever, features, gallery, tmp_path):
    """A run killed after swapping the folders: readers still have the old one mapped."""
    opened = Gallery.open(gallery)
    expected = retriever.score_matrix(opened, ["w1 w2"])
    gallery.rename(tmp_path / "gallery.partial")
    with pytest.warns(CaanWarning, match="an interrupted run left"):
        index(features + np.float32(1))
    assert (retriever.score_matrix(opened, ["w1 w2"]) == expected).all()
    gallery.rename(tmp_path / "gallery.partial")
    half = np.concatenate([features[:128], features[128:] + np.float32(1)])
    opened = Gallery.open(tmp_path / "gallery.partial")
    expected = retriever.score_matrix(opened, ["w1 w2"])
    with pytest.warns(CaanWarning, match="an interrupted run left"):
        index(half)
    assert (retriever.score_matrix(opened, ["w1 w2"]) == expected).all()
