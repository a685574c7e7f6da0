"""Appending to galleries and deleting from them."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import BundleError, DataError, InputError
from caan.runtime import Gallery
from caan.runtime.index import Captions, IndexOptions, delete_items, index_items
from tests.conftest import tree
from tests.runtime.galleries.conftest import BLOCK, IMAGES, Counted, names, scores_of


def test_an_append_on_a_full_disk_keeps_the_gallery(write, tiny_folder, features, mounted, tmp_path, refused):
    disk = mounted("-o", "size=512k")
    write(features[:BLOCK])
    shutil.copytree(tmp_path / "gallery", disk / "gallery")
    np.save(tmp_path / "features.npy", np.tile(features, (4, 1, 1)))
    before = Gallery.open(disk / "gallery")
    caan = Path(sys.executable).with_name("caan")
    command = [caan, "index", tiny_folder / "model.caan", "features.npy", "-o", disk / "gallery", "--append"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "is full" in done.stderr, done
    after = Gallery.open(disk / "gallery")
    assert len(after) == BLOCK and (after.states == before.states).all()


def test_an_append_equals_writing_everything_at_once(write, retriever, features):
    write(features[:200], names(200))
    appended = write(features[200:], names(IMAGES)[200:], append=True)
    whole = write(features, names(IMAGES), target="whole")
    assert appended.ids == whole.ids and (appended.offsets == whole.offsets).all()
    assert np.abs(scores_of(retriever, appended) - scores_of(retriever, whole)).max() <= 2e-3


def test_an_opened_gallery_is_unchanged_when_another_process_appends(write, retriever, features):
    before = write(features[:200], dtype="float32")
    expected = scores_of(retriever, before)
    write(features[200:], append=True)
    assert len(before) == 200 and (scores_of(retriever, before) == expected).all()


def test_appends_that_do_not_fit(write, retriever, tiny_folder, features, tmp_path):
    write(features[:5], names(5))
    before = tree(tmp_path)
    more, ids = features[5:7], ["x", "y"]
    other = Counted(retriever.backend)
    other.model = replace(retriever.backend.model, encoders={"image": "another", "text": "another"})
    for error, says, arguments in [
        (DataError, "has ids; give ids for the new items too: --ids FILE", {"ids": None}),
        (DataError, "the id '3.jpg' is in the gallery already", {"ids": ["3.jpg", "y"]}),
        (InputError, "is float16, and appended items must match", {"dtype": "float32"}),
        (InputError, "is float16, and appended items must match", {"compact": True}),
        (BundleError, "made with another model or precision", {"backend": other}),
    ]:
        with pytest.raises(error, match=says):
            write(more, **{"ids": ids, "append": True, **arguments})
    with pytest.raises(DataError, match="holds image states, not text"):
        captions = Captions(retriever, ["w1"])
        index_items(
            retriever, tiny_folder / "model.caan", captions, tmp_path / "gallery", ["c"], IndexOptions(append=True)
        )
    assert tree(tmp_path) == before
    write(more, target="nameless")
    with pytest.raises(DataError, match="has no ids; leave --ids out"):
        write(more, ids, target="nameless", append=True)
    with pytest.raises(BundleError, match=r"nowhere is not a gallery.*caan index"):
        write(more, target="nowhere", append=True)


def test_an_append_follows_the_gallery_s_dtype_and_compactness(write, features):
    write(features[:5], dtype="float32", compact=True)
    appended = write(features[5:], append=True)
    assert (appended.states.dtype, appended.compact, len(appended)) == (np.float32, True, IMAGES)


def test_deleted_items_are_not_found_and_the_others_keep_their_index(write, retriever, features, tmp_path):
    gallery = write(features[:20], names(20), dtype="float32")
    best = retriever.search("w1 w2", gallery, 20)
    removed = {best[0].index, best[3].index}
    assert delete_items(tmp_path / "gallery", [f"{index}.jpg" for index in removed]) == 18
    opened = Gallery.open(tmp_path / "gallery")
    left = retriever.search("w1 w2", opened, 18)
    assert [hit.index for hit in left] == [hit.index for hit in best if hit.index not in removed]
    scores = scores_of(retriever, opened)
    assert np.isneginf(scores[sorted(removed)]).all() and np.isfinite(np.delete(scores, sorted(removed), axis=0)).all()
    with pytest.raises(DataError, match="k is 19, the gallery has 18 items"):
        retriever.search("w1 w2", opened, 19)


def test_invalid_deletions(run, refused, write, features, tmp_path):
    write(features[:5], names(5))
    assert run("delete", tmp_path / "gallery", "1.jpg", "1.jpg").out.endswith("4 items are left\n")
    refused("delete", "gallery", "1.jpg", says=["has no item '1.jpg', or it is deleted already; nothing was deleted"])
    refused("delete", "gallery", "2.jpg", "unknown", says=["has no item 'unknown'"])
    refused("delete", "gallery", says=["name the items to delete", "--ids FILE"])
    refused("delete", "nowhere", "x", says=["nowhere is not a gallery", "caan index"])


def test_deletion_by_index_without_ids(run, refused, write, features, tmp_path):
    write(features[:5])
    assert run("delete", tmp_path / "gallery", "0", "4").code == 0
    assert Gallery.open(tmp_path / "gallery").live.tolist() == [1, 2, 3]
    refused("delete", "gallery", "5", says=["has no index '5'"])
    refused("delete", "gallery", "x", says=["has no index 'x'"])


def test_all_items_deleted(run, refused, write, retriever, features, tmp_path):
    write(features[:5])
    assert "the gallery is empty" in run("delete", tmp_path / "gallery", *map(str, range(5))).err
    opened = Gallery.open(tmp_path / "gallery")
    assert np.isneginf(scores_of(retriever, opened)).all()
    for search in (lambda: retriever.search("w1", opened, 1), lambda: retriever.tune(opened)):
        with pytest.raises(DataError, match="every item of this gallery is deleted"):
            search()
    refused("search", "gallery", "w1", says=["every item of this gallery is deleted", "caan index"])
    assert Gallery.open(tmp_path / "gallery").live.tolist() == []
    write(features[5:7], append=True)
    assert [hit.index for hit in retriever.search("w1", Gallery.open(tmp_path / "gallery"), 2)] in ([5, 6], [6, 5])


def test_a_deleted_item_s_id_may_be_used_again(write, features, tmp_path):
    write(features[:5], names(5))
    delete_items(tmp_path / "gallery", ["2.jpg"])
    appended = write(features[5:6], ["2.jpg"], append=True)
    assert appended.ids == [*names(5), "2.jpg"] and appended.live.tolist() == [0, 1, 3, 4, 5]
    delete_items(tmp_path / "gallery", ["2.jpg"])
    assert Gallery.open(tmp_path / "gallery").live.tolist() == [0, 1, 3, 4]


@settings(max_examples=20)
@given(st.lists(st.lists(st.integers(0, 19), max_size=6, unique=True), max_size=4))
def test_deletions_add_up(write, features, tmp_path, rounds):
    write(features[:20], overwrite=True)
    live = set(range(20))
    for some in rounds:
        delete_items(tmp_path / "gallery", [str(item) for item in set(some) & live])
        live -= set(some)
        assert Gallery.open(tmp_path / "gallery").live.tolist() == sorted(live)
