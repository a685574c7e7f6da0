"""Mapped files that are truncated, overwritten or replaced while open: an error by name, never a bus error.

In processes of their own, since the wrong answer is the end of the process.
"""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from caan.errors import BundleError, DataError
from caan.runtime import Gallery
from tests.attacks.galleries.conftest import IMAGES, Interrupted

pytestmark = pytest.mark.skipif(os.name != "posix", reason="opened files are written to as on POSIX")


def shorten(path):
    os.truncate(path, path.stat().st_size // 3)


def empty(path):
    os.truncate(path, 0)


def overwrite_beginning(path):
    with path.open("r+b") as file:
        file.write(b"\0" * 64)


def overwrite_all(path):
    path.write_bytes(bytes(path.stat().st_size))


def overwrite_and_restore_the_time(path):
    before = path.stat()
    overwrite_beginning(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def shorten_and_lengthen(path):
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)


def swap_two_rows(path):
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(content[328:656] + content[:328])


SHORTER, OTHER = (
    [shorten, empty],
    [
        overwrite_beginning,
        overwrite_all,
        overwrite_and_restore_the_time,
        shorten_and_lengthen,
        swap_two_rows,
    ],
)


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("change", SHORTER + OTHER)
def test_states_changed_while_the_gallery_is_open(retriever, gallery, change, used):
    opened = Gallery.open(gallery)
    if used:
        retriever.search("w1 w2", opened, 3)
    change(gallery / "states.bin")
    says = (
        "states.bin is truncated: .* bytes of" if change in SHORTER else "states.bin was changed: the states of items"
    )
    for _ in range(2):
        with pytest.raises(BundleError, match=says):
            retriever.search("w1 w2", opened, 3)
        with pytest.raises(BundleError, match=says):
            retriever.load(opened)


@pytest.mark.parametrize("change", SHORTER + OTHER)
def test_states_changed_while_they_are_scored(retriever, gallery, monkeypatch, change):
    """All were verified and read; a later change is detected before an answer is given."""
    opened, texts = Gallery.open(gallery), retriever.encode_captions(["w1"])
    retriever.score_matrix(opened, texts)
    confirm = opened.check.confirm
    monkeypatch.setattr(opened.check, "confirm", lambda: (change(gallery / "states.bin"), confirm()))
    with pytest.raises(BundleError, match=r"states\.bin (is truncated|was changed)"):
        retriever.score_matrix(opened, texts)


def test_a_change_that_another_search_noticed_first(retriever, gallery):
    """It used other blocks: an earlier user of the changed block still gets an error."""
    opened = Gallery.open(gallery)
    retriever.search("w1 w2", opened, 3)
    overwrite_beginning(gallery / "states.bin")
    opened.rows(np.array([IMAGES - 1]))
    with pytest.raises(BundleError, match="the states of items 0 to 127"):
        opened.confirm()


def test_a_block_is_good_again_when_its_content_is(retriever, gallery, tmp_path):
    opened = Gallery.open(gallery)
    expected = retriever.search("w1 w2", opened, 3)
    content = (gallery / "states.bin").read_bytes()
    overwrite_beginning(gallery / "states.bin")
    with pytest.raises(BundleError):
        retriever.search("w1 w2", opened, 3)
    with (gallery / "states.bin").open("r+b") as file:
        file.write(content)
    assert retriever.search("w1 w2", opened, 3) == expected


@pytest.mark.parametrize("change", SHORTER + OTHER)
def test_states_in_memory_are_not_affected(retriever, gallery, change):
    opened = Gallery.open(gallery, storage="memory")
    expected = retriever.search("w1 w2", opened, 3)
    change(gallery / "states.bin")
    assert retriever.search("w1 w2", opened, 3) == expected
    with pytest.raises(BundleError, match=r"states\.bin (is truncated|was changed)"):
        Gallery.open(gallery, storage="memory")


def test_replacing_a_gallery_does_not_affect_open_readers(retriever, index, features, gallery, tmp_path):
    opened = Gallery.open(gallery)
    expected = retriever.search("w1 w2", opened, 3)
    hashed = []
    opened.check._compare = hashed.append
    index(features[:20], append=True, first=IMAGES)
    assert retriever.search("w1 w2", opened, 3) == expected
    index(features[:20] + 1, overwrite=True)
    assert retriever.search("w1 w2", opened, 3) == expected
    shutil.rmtree(gallery)
    assert retriever.search("w1 w2", opened, 3) == expected
    assert hashed == []  # appends and replacements cost readers nothing


SHORTENED = """
import os, sys
import numpy as np
from pathlib import Path
from caan.errors import DataError
from caan.data.scan import open_features
from caan.runtime import Retriever
features = open_features(Path(sys.argv[2]))
retriever = Retriever.open(sys.argv[1], "onnxruntime", threads=1)
os.truncate(sys.argv[2], 128)
part = lambda features: retriever.encode_images(features[::5])
for call in (retriever.encode_images, part, lambda features: retriever.score_dataset(features, ["w1"])):
    try:
        call(features)
    except DataError as error:
        print(error)
"""


def test_features_truncated_after_opening(tiny_folder, features, tmp_path):
    np.save(tmp_path / "features.npy", features)
    command = [sys.executable, "-c", SHORTENED, tiny_folder / "model.caan", tmp_path / "features.npy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    says = f"{tmp_path / 'features.npy'} was truncated while it was read: 128 bytes of"
    assert (done.returncode, done.stdout.count(says)) == (0, 3), done


def test_features_truncated_while_indexing(index, retriever, features, tmp_path):
    from caan.data.scan import open_features
    from caan.runtime import Retriever

    np.save(tmp_path / "features.npy", features)
    shortening = Interrupted(retriever.backend, lambda: shorten(tmp_path / "features.npy"))
    with pytest.raises(DataError, match=r"features\.npy was truncated while it was read"):
        index(open_features(tmp_path / "features.npy"), by=Retriever(shortening))


def test_features_overwritten_while_indexing(index, retriever, features, tmp_path):
    """The journal's checksum is of the encoded bytes: the next run detects that the rest has changed."""
    from caan.data.scan import open_features
    from caan.runtime import Retriever

    np.save(tmp_path / "features.npy", features)
    overwriting = Interrupted(retriever.backend, lambda: overwrite_all(tmp_path / "features.npy"))
    mapped = open_features(tmp_path / "features.npy")
    blocks = index(mapped, by=Retriever(overwriting)).check.description.blocks
    assert blocks[0] == index(features, "other").check.description.blocks[0]
