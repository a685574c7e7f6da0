"""File systems without flock, such as some network drives: of two concurrent writers one fails, and nothing is lost."""

import errno
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from caan.errors import CaanWarning, OutputError
from caan.runtime import Gallery, Retriever
from caan.runtime.galleries.changes import compact_items
from caan.runtime.index import delete_items
from tests.attacks.galleries.conftest import IMAGES, Interrupted
from tests.conftest import tree

fcntl = pytest.importorskip("fcntl", reason="locks as on POSIX")


@pytest.fixture(params=["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def no_locks(request, monkeypatch):
    """Every lock is refused, as on such a file system."""

    def refuse(handle, operation):
        raise OSError(getattr(errno, request.param), os.strerror(getattr(errno, request.param)))

    monkeypatch.setattr(fcntl, "flock", refuse)


def names(path):
    return sorted(child.name for child in path.iterdir())


def whole(gallery, retriever):
    """The ids of a gallery, after verifying all blocks."""
    opened = Gallery.open(gallery)
    retriever.score_matrix(opened, ["w1 w2"])
    return opened.ids


@pytest.mark.usefixtures("no_locks")
def test_missing_locks_are_reported(index, features, gallery):
    with pytest.warns(CaanWarning, match="there are no locks where .*gallery is"):
        index(features[:5], append=True, first=IMAGES)
    with pytest.warns(CaanWarning, match="there are no locks"):
        delete_items(gallery, ["3.jpg"])


@pytest.mark.usefixtures("no_locks")
@pytest.mark.filterwarnings("ignore:there are no locks")
@pytest.mark.parametrize("other", ["append", "delete", "compact", "replace"])
def test_an_append_beside_another_change(index, retriever, features, gallery, tmp_path, other):
    """The first to finish succeeds; the other reports failure."""
    changes = {
        "append": lambda: index(features[5:15], append=True, first=1000),
        "delete": lambda: delete_items(gallery, ["3.jpg"]),
        "compact": lambda: (delete_items(gallery, ["3.jpg"]), compact_items(gallery)),
        "replace": lambda: index(features[:150], overwrite=True),
    }
    slow = Retriever(Interrupted(retriever.backend, changes[other]))
    with pytest.raises(
        OutputError,
        match=r"was changed by another process meanwhile, so this one added and deleted nothing; run the command",
    ):
        index(features[:5], append=True, first=IMAGES, by=slow)
    ids = [f"{number}.jpg" for number in range(IMAGES)]
    expected = {"append": [*ids, *(f"{1000 + n}.jpg" for n in range(10))], "delete": ids, "replace": ids[:150]}
    expected["compact"] = [name for name in ids if name != "3.jpg"]
    assert whole(gallery, retriever) == expected[other]
    assert names(gallery) == ["gallery.json", "ids.jsonl", "lengths.bin", "states.bin"]
    index(features[:5], append=True, first=IMAGES)
    assert whole(gallery, retriever) == [*expected[other], *(f"{IMAGES + n}.jpg" for n in range(5))]
    assert names(tmp_path) == ["gallery"]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.filterwarnings("ignore:there are no locks")
def test_two_new_galleries_of_one_name(index, retriever, features, tmp_path):
    def other():
        with pytest.raises(OutputError, match="another process is writing"):
            index(features[:9])

    index(features, by=Retriever(Interrupted(retriever.backend, other)))
    assert len(whole(tmp_path / "gallery", retriever)) == IMAGES
    assert names(tmp_path) == ["gallery"]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.filterwarnings("ignore:there are no locks")
def test_a_killed_writer_s_claim_is_taken_over(index, retriever, features, gallery, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / ".gallery.claim").write_text(f"{dead.pid} {os.uname().nodename}\n")
    (gallery / f".append-{dead.pid}-{os.uname().nodename}-x.tmp").mkdir()
    index(features[:5], append=True, first=IMAGES)
    assert len(whole(gallery, retriever)) == IMAGES + 5
    assert names(tmp_path) == ["gallery"]
    assert names(gallery) == ["gallery.json", "ids.jsonl", "lengths.bin", "states.bin"]


@pytest.mark.usefixtures("no_locks")
@pytest.mark.filterwarnings("ignore:there are no locks")
def test_a_claim_of_another_machine_is_left_to_the_user(index, features, gallery, tmp_path):
    (tmp_path / ".gallery.claim").write_text("17 elsewhere\n")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"another process is writing .*, or, if there is none, remove .*\.claim"):
        index(features[:5], append=True, first=IMAGES)
    assert tree(tmp_path) == before


def test_a_file_system_with_local_locks_only(index, retriever, features, gallery, monkeypatch):
    """Every lock is granted, but another machine changes the gallery meanwhile."""
    monkeypatch.setattr(fcntl, "flock", lambda handle, operation: None)
    slow = Retriever(Interrupted(retriever.backend, lambda: delete_items(gallery, ["3.jpg"])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OutputError, match="was changed by another process meanwhile"):
            index(features[:5], append=True, first=IMAGES, by=slow)
    assert len(Gallery.open(gallery).live) == IMAGES - 1


@pytest.mark.parametrize("error", ["ENOLCK", "EOPNOTSUPP"])
def test_two_commands_at_once(strace, caan, retriever, tiny_folder, features, gallery, tmp_path, error):
    """In separate processes: whatever their outcome, the gallery stays valid."""
    commands = []
    for number, part in enumerate((features[:100], features[100:])):
        np.save(tmp_path / f"{number}.npy", part)
        (tmp_path / f"{number}.txt").write_text("".join(f"more {number} {n}\n" for n in range(100)))
        bundle, more = tiny_folder / "model.caan", [tmp_path / f"{number}.npy", "--ids", tmp_path / f"{number}.txt"]
        commands.append([*strace(f"flock:error={error}"), caan, "index", bundle, *more, "-o", gallery, "--append"])
    running = [subprocess.Popen(c, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for c in commands]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in running]
    assert all("there are no locks where" in message for message, _ in ended), ended
    done = [number for number, (_, code) in enumerate(ended) if code == 0]
    assert done, ended
    for message, code in ended:
        assert code in (0, 2) and "Traceback" not in message, message
        assert code == 0 or "changed by another process" in message or "another process is writing" in message
    added = [[f"more {number} {n}" for n in range(100)] for number in done]
    ids = whole(gallery, retriever)
    assert len(ids) == IMAGES + 100 * len(done) and all(set(some) <= set(ids) for some in added)
