"""Galleries and their environment: readers, other processes, links, permissions, memory for opening."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caan._files import locked
from caan.errors import OutputError
from caan.runtime import Gallery
from caan.runtime.galleries import folder as gallery_folder
from caan.runtime.galleries.description import Block, Description
from caan.runtime.galleries.folder import read_description
from caan.runtime.index import delete_items
from tests.conftest import tree
from tests.runtime.galleries.conftest import names, scores_of


def test_two_processes_at_once(write, features, half_done, refused, tiny_folder, tmp_path):
    np.save(tmp_path / "features.npy", features)
    command = ["index", tiny_folder / "model.caan", "features.npy", "-o", "gallery"]
    with locked(half_done):
        refused(*command, says=["another process is writing", "gallery.partial", "wait for it"])
    write(features)
    with locked(tmp_path / "gallery"):
        refused(*command, "--append", says=["another process is writing", "wait for it"])
        refused("delete", "gallery", "3", says=["another process is writing", "wait for it"])


def test_a_user_s_folder_with_the_name_of_the_working_folder(write, features, tmp_path):
    (tmp_path / "gallery.partial").mkdir()
    (tmp_path / "gallery.partial" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"gallery.partial .* holds notes.txt, which caan index did not write; move"):
        write(features)
    assert tree(tmp_path) == {"gallery.partial": None, "gallery.partial/notes.txt": b"mine"}


@pytest.mark.skipif(os.name != "posix", reason="links and permissions as on POSIX")
def test_a_link_is_kept_and_its_target_written(write, features, tmp_path):
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
    """The description is from the old gallery, the other files from the new one, so all is read again."""
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
def test_no_file_or_lock_is_left_open(write, features, tmp_path):
    write(features[:5])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(OutputError):
            write(features[:5])
        write(features[:5], append=True)
        write(features[:5], overwrite=True)
        delete_items(tmp_path / "gallery", ["1"])
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_system_without_locks_and_atomic_exchange(write, features, tmp_path, monkeypatch):
    """As on Windows and, for the exchange, macOS."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr("caan._files.folders._exchange", lambda first, second: False)
    write(features[:5])
    write(features[5:9], append=True)
    (tmp_path / "gallery.old").mkdir()  # the user's own
    assert len(write(features[:7], overwrite=True)) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery", "gallery.old"]


def test_a_hundred_thousand_images_open_in_little_memory(tmp_path):
    """States of 100,000 images at the paper's size, 37 GB, as a sparse file."""
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
    blocks = tuple(Block(size, size * regions, "0" * 64, 0) for size in sizes)
    parts = {"lengths": gallery_folder.part_of(lengths), "ids": gallery_folder.part_of(ids)}
    gallery_folder.write_description(folder, Description("image", "0" * 64, "float16", columns, blocks=blocks, **parts))
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


def test_a_bundle_is_not_replaced_by_a_gallery_or_vice_versa(refused, tiny_bundle, tiny_folder, tiny_data):
    says = ["model.caan is a bundle, so no gallery replaces it", "name another with -o"]
    refused("index", tiny_bundle, tiny_data / "test_ims.npy", "-o", tiny_bundle, "--overwrite", says=says)


def test_a_gallery_is_not_replaced_by_a_bundle(refused, write, features, tiny_folder, tmp_path):
    write(features[:20])
    says = ["gallery is a gallery, so no bundle replaces it"]
    refused("export", tiny_folder / "model.pt", "-o", tmp_path / "gallery", "--overwrite", says=says)


def test_two_galleries_may_keep_their_states_in_one_folder(retriever, features, tmp_path):
    first = retriever.encode_images(features[:20], folder=str(tmp_path))
    expected = retriever.search("w1", first, 5)
    retriever.encode_images(features[20:25], folder=tmp_path)
    retriever.encode_captions(["w1 w2"], folder=tmp_path)
    assert retriever.search("w1", first, 5) == expected
    with pytest.raises(OutputError, match="nowhere"):
        retriever.encode_images(features[:2], folder=tmp_path / "nowhere")
