"""Galleries on disk: what `caan index` and `caan delete` write, go on with, add, take away and refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caan._files import locked
from caan.errors import BundleError, CaanWarning, DataError, InputError, OutputError
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries import folder as gallery_folder
from caan.runtime.galleries.folder import read_description
from caan.runtime.galleries.writer import JOURNAL
from caan.runtime.index import Captions, Images, IndexOptions, delete_items, index_items
from tests.conftest import tree

IMAGES, BLOCK = 600, 128  # five blocks


class Counted:
    """A backend that counts the images it encodes, and may fail at one."""

    def __init__(self, backend, fails_at=None, error=KeyboardInterrupt):
        self._backend, self.images, self._fails_at, self._error = backend, 0, fails_at, error

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def encode_images(self, features):
        self.images += len(features)
        if self._fails_at is not None and self.images > self._fails_at:
            raise self._error
        return self._backend.encode_images(features)


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).standard_normal((IMAGES, 5, 12)).astype(np.float32)


@pytest.fixture
def write(retriever, tiny_folder, tmp_path):
    """write(features, ids, **options): the gallery at tmp_path/gallery; backend=…: by another backend."""

    def call(features, ids=None, target="gallery", backend=None, lengths=None, **options):
        made_by = retriever if backend is None else Retriever(backend)
        bundle = tiny_folder / "model.caan"
        source = Images(made_by, features, lengths)
        return index_items(made_by, bundle, source, tmp_path / target, ids, IndexOptions(**options))

    return call


@pytest.fixture
def half_done(write, retriever, features, tmp_path):
    """A run that was interrupted in the fourth of five blocks."""
    with pytest.raises(KeyboardInterrupt):
        write(features, backend=Counted(retriever.backend, 3 * BLOCK + 10))
    assert not (tmp_path / "gallery").exists()
    return tmp_path / "gallery.partial"


def names(number):
    return [f"{n}.jpg" for n in range(number)]


def scores_of(retriever, gallery):
    return retriever.score_matrix(gallery, ["w1 w2", "w3"])


def test_a_gallery_scores_as_its_features_do(write, retriever, features):
    expected = scores_of(retriever, retriever.encode_images(features))
    for options, tolerance in (({"dtype": "float32"}, 2e-6), ({}, 2e-3), ({"compact": True}, 5e-3)):
        opened = write(features, names(IMAGES), overwrite=True, **options)
        assert np.abs(scores_of(retriever, opened) - expected).max() <= tolerance
        assert opened.ids == names(IMAGES)


def test_compact_keeps_v_alone(write, features):
    whole, compact = write(features, target="whole"), write(features, target="compact", compact=True)
    assert (whole.states.shape[1], compact.states.shape[1]) == (41, 10)
    np.testing.assert_array_equal(whole.states[:, :10], compact.states)


def test_what_is_missing_alone_is_encoded_again(write, retriever, features, half_done, tmp_path):
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
    other.encoders = {"image": "another", "text": "another"}
    with pytest.warns(CaanWarning, match="of another model"):
        write(features, backend=other)
    assert other.images == IMAGES
    assert Gallery.open(tmp_path / "gallery").encoder == "another"


def test_a_bundle_that_was_moved_meanwhile_goes_on(retriever, write, features, half_done, tiny_bundle, tmp_path):
    counted = Counted(retriever.backend)
    made_by = Retriever(counted)
    index_items(made_by, tiny_bundle, Images(made_by, features), tmp_path / "gallery")
    assert counted.images == IMAGES - 3 * BLOCK
    assert Gallery.open(tmp_path / "gallery").bundle == "../model.caan"


@pytest.mark.parametrize(("cut", "blocks"), [(1, 2), (20, 2), (150, 1)])
def test_a_torn_journal(write, retriever, features, half_done, tmp_path, cut, blocks):
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


def test_a_failure_before_the_first_new_block_keeps_what_an_earlier_run_did(write, retriever, features, half_done):
    before = tree(half_done)
    with pytest.raises(KeyboardInterrupt):
        write(features + 1, backend=Counted(retriever.backend, 10))
    assert tree(half_done) == before


def test_a_failure_in_the_first_block_leaves_nothing(write, retriever, features, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(features, backend=Counted(retriever.backend, 10))
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once(write, features, half_done, refused, tiny_folder, tmp_path):
    np.save(tmp_path / "features.npy", features)
    command = ["index", tiny_folder / "model.caan", "features.npy", "-o", "gallery"]
    with locked(half_done):
        refused(*command, says=["another process is writing", "gallery.partial", "wait for it"])
    write(features)
    with locked(tmp_path / "gallery"):
        refused(*command, "--append", says=["another process is writing", "wait for it"])
        refused("delete", "gallery", "3", says=["another process is writing", "wait for it"])


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on POSIX")
def test_ctrl_c_in_the_command(run, retriever, tiny_folder, features, tmp_path, monkeypatch):
    np.save(tmp_path / "features.npy", features)
    counted = Counted(retriever.backend, 3 * BLOCK + 10)
    monkeypatch.setattr(Retriever, "open", lambda *arguments, **options: Retriever(counted))
    command = ["index", tiny_folder / "model.caan", tmp_path / "features.npy", "-o", tmp_path / "gallery"]
    done = run(*command)
    assert done.code == 1 and "Aborted" in done.err and "the same command goes on" in done.err
    assert not (tmp_path / "gallery").exists()
    counted._fails_at = None
    counted.images = 0
    assert run(*command).code == 0
    assert counted.images == IMAGES - 3 * BLOCK


def test_nan_in_image_300_names_it_and_shows_nothing(run, tiny_folder, features, tmp_path):
    features = features.copy()
    features[300, 2, 3] = np.nan
    np.save(tmp_path / "features.npy", features)
    (tmp_path / "ids.txt").write_text("".join(f"{name}\n" for name in names(IMAGES)))
    command = ["index", tiny_folder / "model.caan", tmp_path / "features.npy", "-o", tmp_path / "gallery"]
    done = run(*command, "--ids", tmp_path / "ids.txt")
    assert done.code == 2 and "image 300 (300.jpg) can't be encoded: its features hold NaN" in done.err
    assert not (tmp_path / "gallery").exists()


def test_states_beyond_float16_say_which_dtype_holds_them(write, retriever, features):
    class Huge(Counted):
        def encode_images(self, features):
            return super().encode_images(features) * 1e6

    with pytest.raises(DataError, match=r"image 0 can't be encoded: its states are beyond float16.*--dtype float32"):
        write(features, backend=Huge(retriever.backend))
    assert len(write(features, backend=Huge(retriever.backend), dtype="float32")) == IMAGES


def test_a_full_disk_keeps_what_is_done(tiny_folder, features, mounted, tmp_path):
    disk = mounted("-o", "size=180k")
    np.save(tmp_path / "features.npy", features)
    caan = Path(sys.executable).with_name("caan")
    command = [caan, "index", tiny_folder / "model.caan", "features.npy", "-o", disk / "gallery"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"Error: the disk of {disk} is full")
    assert "free some space and give the same command again, it goes on where it was" in message
    assert [path.name for path in disk.iterdir()] == ["gallery.partial"]
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60).returncode == 0
    assert len(Gallery.open(disk / "gallery")) == IMAGES


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


@settings(max_examples=40)
@given(st.lists(st.text(), min_size=3, max_size=3, unique=True))
def test_any_text_is_an_id(write, features, ids):
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        with pytest.raises(DataError, match="is no text"):
            write(features[:3], ids, overwrite=True)
    else:
        assert write(features[:3], ids, overwrite=True).ids == ids


def test_ids_that_are_easily_torn(write, features):
    ids = ["a\nb", "\u2028", "😀", '"', "\\", "", "\r", "\x00", "\x85", "e\u0301", "\u00e9"]
    assert write(features[: len(ids)], ids).ids == ids


@pytest.mark.parametrize("ids", [["a", "b", "\ud800"], ["a", "b", 3], ["a", "b", None], ["a", "b", b"c"]])
def test_ids_that_are_no_text(write, features, tmp_path, ids):
    with pytest.raises(DataError, match="id 2 is no text"):
        write(features[:3], ids)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_do_not_fit(write, features, tmp_path):
    with pytest.raises(DataError, match="the id 'a' stands for two items"):
        write(features[:3], ["a", "b", "a"])
    with pytest.raises(DataError, match="2 ids don't fit 3 items"):
        write(features[:3], ["a", "b"])
    assert list(tmp_path.iterdir()) == []


def test_an_append_is_as_if_all_had_been_written_at_once(write, retriever, features):
    write(features[:200], names(200))
    appended = write(features[200:], names(IMAGES)[200:], append=True)
    whole = write(features, names(IMAGES), target="whole")
    assert appended.ids == whole.ids and (appended.offsets == whole.offsets).all()
    assert np.abs(scores_of(retriever, appended) - scores_of(retriever, whole)).max() <= 2e-3


def test_an_opened_gallery_stays_as_it_was_when_another_process_appends(write, retriever, features):
    before = write(features[:200], dtype="float32")
    expected = scores_of(retriever, before)
    write(features[200:], append=True)
    assert len(before) == 200 and (scores_of(retriever, before) == expected).all()


def test_appends_that_do_not_fit(write, retriever, tiny_folder, features, tmp_path):
    write(features[:5], names(5))
    before = tree(tmp_path)
    more, ids = features[5:7], ["x", "y"]
    other = Counted(retriever.backend)
    other.encoders = {"image": "another", "text": "another"}
    for error, says, arguments in [
        (DataError, "has ids; give ids for the new items too: --ids FILE", {"ids": None}),
        (DataError, "the id '3.jpg' is in the gallery already", {"ids": ["3.jpg", "y"]}),
        (InputError, "is float16, and what is appended is so too", {"dtype": "float32"}),
        (InputError, "is float16, and what is appended is so too", {"compact": True}),
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
    with pytest.raises(BundleError, match=r"nowhere is no gallery.*caan index"):
        write(more, target="nowhere", append=True)


def test_an_append_follows_the_gallery_s_dtype_and_compactness(write, features):
    write(features[:5], dtype="float32", compact=True)
    appended = write(features[5:], append=True)
    assert (appended.states.dtype, appended.compact, len(appended)) == (np.float32, True, IMAGES)


def test_deleted_items_are_not_found_and_the_others_keep_their_index(write, retriever, features, tmp_path):
    gallery = write(features[:20], names(20), dtype="float32")
    best = retriever.search("w1 w2", gallery, 20)
    gone = {best[0].index, best[3].index}
    assert delete_items(tmp_path / "gallery", [f"{index}.jpg" for index in gone]) == 18
    opened = Gallery.open(tmp_path / "gallery")
    left = retriever.search("w1 w2", opened, 18)
    assert [hit.index for hit in left] == [hit.index for hit in best if hit.index not in gone]
    scores = scores_of(retriever, opened)
    assert np.isneginf(scores[sorted(gone)]).all() and np.isfinite(np.delete(scores, sorted(gone), axis=0)).all()
    with pytest.raises(DataError, match="k is 19, the gallery has 18 items"):
        retriever.search("w1 w2", opened, 19)


def test_deletions_that_can_not_be(run, refused, write, features, tmp_path):
    write(features[:5], names(5))
    assert run("delete", tmp_path / "gallery", "1.jpg", "1.jpg").out.endswith("4 items are left\n")
    refused("delete", "gallery", "1.jpg", says=["has no item '1.jpg', or it is deleted already; nothing was deleted"])
    refused("delete", "gallery", "2.jpg", "unknown", says=["has no item 'unknown'"])
    refused("delete", "gallery", says=["name the items to delete", "--ids FILE"])
    refused("delete", "nowhere", "x", says=["nowhere is no gallery", "caan index"])


def test_deletion_by_index_where_there_are_no_ids(run, refused, write, features, tmp_path):
    write(features[:5])
    assert run("delete", tmp_path / "gallery", "0", "4").code == 0
    assert Gallery.open(tmp_path / "gallery").live.tolist() == [1, 2, 3]
    refused("delete", "gallery", "5", says=["has no index '5'"])
    refused("delete", "gallery", "x", says=["has no index 'x'"])


def test_all_items_deleted(run, refused, write, retriever, features, tmp_path):
    write(features[:5])
    assert "nothing can be found" in run("delete", tmp_path / "gallery", *map(str, range(5))).err
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


def test_a_gallery_of_captions_is_searched_with_images(run, retriever, tiny_folder, features, tmp_path):
    texts = [f"w{n % 20} w{n % 7} w{n % 3}" for n in range(700)]
    (tmp_path / "captions.txt").write_text("\n".join(texts))
    command = ["index", tiny_folder / "model.caan", tmp_path / "captions.txt", "-o", tmp_path / "gallery"]
    assert run(*command, "--dtype", "float32").out.endswith("gallery: 700 captions\n")
    opened = Gallery.open(tmp_path / "gallery")
    assert (opened.kind, len(opened)) == ("text", 700)
    images = retriever.encode_images(features[:3])
    expected = retriever.score_matrix(images, texts)
    assert np.abs(retriever.score_matrix(images, opened) - expected).max() <= 2e-6
    assert len(retriever.search(features[0], opened, 5)) == 5


def test_lengths_are_the_regions_of_each_image(run, retriever, tiny_folder, features, tmp_path):
    lengths = np.arange(IMAGES) % 5 + 1
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "lengths.npy", lengths)
    command = ["index", tiny_folder / "model.caan", tmp_path / "features.npy", "-o", tmp_path / "gallery"]
    assert run(*command, "--lengths", tmp_path / "lengths.npy", "--dtype", "float32").code == 0
    opened = Gallery.open(tmp_path / "gallery")
    assert (opened.lengths == lengths).all()
    expected = scores_of(retriever, retriever.encode_images(features, lengths))
    assert np.abs(scores_of(retriever, opened) - expected).max() <= 2e-6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (np.ones(6), "expected integers (images,)"),
        (np.ones((6, 1), int), "expected integers (images,)"),
        (np.ones(5, int), "lengths must be 6 integers"),
        (np.zeros(6, int), "lengths must be 1 to 5"),
        (np.full(6, 6), "lengths must be 1 to 5"),
    ],
)
def test_lengths_that_do_not_fit(refused, tiny_folder, tiny_data, tmp_path, content, says):
    np.save(tmp_path / "lengths.npy", content)
    command = ["index", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "-o", "gallery"]
    refused(*command, "--lengths", "lengths.npy", says=[says])


def test_options_that_do_not_go_together(refused, tiny_folder, tiny_data, tmp_path):
    (tmp_path / "captions.txt").write_text("w1\n")
    bundle, images = tiny_folder / "model.caan", tiny_data / "test_ims.npy"
    refused("index", bundle, "captions.txt", "-o", "new", "--compact", says=["--compact is for galleries of images"])
    refused("index", bundle, "captions.txt", "-o", "new", "--lengths", images, says=["--lengths is for the regions"])
    refused("index", bundle, images, "-o", "new", "--dtype", "int8", says=["unknown dtype 'int8'", "float16, float32"])
    refused("index", bundle, images, "-o", "new", "--append", "--overwrite", says=["give one of them"])
    refused("index", bundle, images, "-o", "new.partial", says=["new.partial ends in .partial", "-o"])


def test_float32_of_half_precision_graphs_is_refused(write, retriever, features, tmp_path):
    half = Counted(retriever.backend)
    half.state_dtype, half.precision = np.dtype(np.float16), "fp16"
    with pytest.raises(InputError, match="states of precision fp16 are float16; leave --dtype float32 out"):
        write(features, backend=half, dtype="float32")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_user_s_that_is_called_as_work_in_progress_is(write, features, tmp_path):
    (tmp_path / "gallery.partial").mkdir()
    (tmp_path / "gallery.partial" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"gallery.partial .* holds notes.txt, which caan index did not write; move"):
        write(features)
    assert tree(tmp_path) == {"gallery.partial": None, "gallery.partial/notes.txt": b"mine"}


@pytest.mark.skipif(os.name != "posix", reason="links and permissions as on POSIX")
def test_a_link_stays_and_what_it_leads_to_is_written(write, features, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "gallery")
    write(features[:5], target="link")
    write(features[:5], target="link", append=True)
    write(features[:7], target="link", overwrite=True)
    delete_items(tmp_path / "link", ["3"])
    assert (tmp_path / "link").is_symlink() and len(Gallery.open(tmp_path / "disk" / "gallery").live) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["gallery"]


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_the_umask_decides_who_may_read(write, features, tmp_path):
    before = os.umask(0o027)
    try:
        write(features[:5], names(5))
        write(features[5:9], names(9)[5:], append=True)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "gallery").iterdir()}
    assert modes == dict.fromkeys(["gallery.json", "states.bin", "lengths.bin", "ids.jsonl"], 0o640)
    assert (tmp_path / "gallery").stat().st_mode & 0o777 == 0o750


def test_a_gallery_replaced_while_it_is_opened(write, retriever, features, tmp_path, monkeypatch):
    """The description is the old one's, the other files are the new one's: read again."""
    write(features[:200], names(200), target="gallery")
    new = write(features[200:500], names(300), target="other", dtype="float32")
    real, replaced = gallery_folder._read_part, []

    def read_part(path, part):
        if not replaced:
            replaced.append(path)
            write(features[200:500], names(300), overwrite=True, dtype="float32")
        return real(path, part)

    monkeypatch.setattr(gallery_folder, "_read_part", read_part)
    opened = Gallery.open(tmp_path / "gallery")
    assert replaced and len(opened) == 300
    assert (scores_of(retriever, opened) == scores_of(retriever, new)).all()


READER = """
import sys, numpy as np
from pathlib import Path
from caan.runtime import Gallery
print("ready", flush=True)
seen = set()
while not Path(sys.argv[2]).exists():
    opened = Gallery.open(sys.argv[1])
    opened.gather(np.arange(len(opened)))
    assert len(opened.ids) == len(opened)
    seen.add(len(opened))
print(sorted(seen))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="opened files can't be replaced there")
def test_readers_see_whole_galleries_while_others_are_written(write, features, tmp_path):
    write(features[:200], names(200))
    command = [sys.executable, "-c", READER, tmp_path / "gallery", tmp_path / "stop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as reader:
        try:
            assert reader.stdout.readline() == "ready\n"
            for _ in range(10):
                write(features[200:350], [f"more {n}" for n in range(150)], append=True)
                write(features[:200], names(200), overwrite=True)
        finally:
            (tmp_path / "stop").touch()
        seen, errors = reader.communicate(timeout=60)
    assert seen == "[200, 350]\n", errors


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux tells them")
def test_no_file_and_no_lock_is_left_open(write, features, tmp_path):
    write(features[:5])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(OutputError):
            write(features[:5])
        write(features[:5], append=True)
        write(features[:5], overwrite=True)
        delete_items(tmp_path / "gallery", ["1"])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_system_without_locks_and_exchange(write, features, tmp_path, monkeypatch):
    """As Windows and, for the exchange, macOS."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr("caan._files._exchange", lambda first, second: False)
    write(features[:5])
    write(features[5:9], append=True)
    (tmp_path / "gallery.old").mkdir()  # somebody's own
    assert len(write(features[:7], overwrite=True)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery", "gallery.old"]


def test_a_hundred_thousand_images_open_in_little_memory(tmp_path):
    """States of 100,000 images at the paper's size, 37 GB: a file with nothing in it."""
    images, regions, columns, block = 100_000, 36, 5120, 128
    folder = tmp_path / "gallery"
    folder.mkdir()
    lengths = np.full(images, regions, gallery_folder.LENGTH).tobytes()
    ids = "".join(f'"photos/{image:08d}.jpg"\n' for image in range(images)).encode()
    (folder / "lengths.bin").write_bytes(lengths)
    (folder / "ids.jsonl").write_bytes(ids)
    with (folder / "states.bin").open("wb") as file:
        file.truncate(images * regions * columns * 2)
    sizes = [min(block, images - start) for start in range(0, images, block)]
    blocks = tuple(gallery_folder.Block(size, size * regions, "0" * 64, 0) for size in sizes)
    parts = {"lengths": gallery_folder.part_of(lengths), "ids": gallery_folder.part_of(ids)}
    gallery_folder.write_description(
        folder, gallery_folder.Description("image", "0" * 64, "float16", columns, blocks=blocks, **parts)
    )
    program = (
        "import sys, time\nfrom caan._machine import peak_memory\nfrom caan.runtime import Gallery\n"
        "start = time.perf_counter()\ngallery = Gallery.open(sys.argv[1])\nseconds = time.perf_counter() - start\n"
        "assert gallery.ids[-1] == 'photos/00099999.jpg' and gallery.offsets[-1] == 3_600_000\n"
        "print(len(gallery), peak_memory(), seconds)"
    )
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=60)
    number, peak, seconds = done.stdout.split()
    print(f"{int(peak) / 1e6:.0f} MB, {float(seconds):.2f} s")
    assert int(number) == images
    assert int(peak) < 200e6
    assert read_description(folder).items == images
