"""Pictures are found by id, only inside their folder, and missing ones have a reason."""

import pytest
from PIL import Image

from caan.errors import DataError
from caan.report.find_pictures import PictureFolder


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "c.jpeg", "d.webp", "sub/e.PNG", "../secret.png"):
        Image.new("RGB", (10, 20)).save(pictures / name)
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    (pictures / "notes.txt").write_text("no picture")
    return pictures


@pytest.mark.parametrize("name", ["a", "a.png", "b", "c", "c.jpeg", "d", "sub/e.PNG"])
def test_a_picture_is_found_with_its_extension_or_without(folder, name):
    assert PictureFolder(folder).thumbnail(name).uri.startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("name", ["nowhere", "notes.txt", "sub", "", ".", "zero\0byte", "long" * 2000, "../secret"])
def test_other_names_have_none(folder, name):
    shown = PictureFolder(folder).thumbnail(name)
    assert (shown.name, shown.uri, shown.reason) == (name, None, "no picture with this name")


def test_an_id_does_not_lead_out_of_the_folder(folder):
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    pictures = PictureFolder(folder)
    for name in ("../secret.png", str(folder.parent / "secret.png"), "link", "sub/../../secret"):
        assert pictures.path_of(name) is None


def test_without_a_folder_an_id_is_a_path(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    pictures = PictureFolder()
    for name in ("pictures/a.png", "pictures/b", str(folder / "c.jpeg")):
        assert pictures.thumbnail(name).uri is not None


def test_a_broken_picture_has_its_reason(folder):
    shown = PictureFolder(folder).thumbnail("broken")
    assert shown.uri is None and "can't be read as a picture" in shown.reason


def test_a_folder_that_is_none(folder):
    with pytest.raises(DataError, match="is not a folder; name another with --pictures DIR"):
        PictureFolder(folder / "a.png")
