"""Pictures named by ids: only inside their folder, only PNG, JPEG and WebP, and only of a size that fits memory."""

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from caan.errors import DataError
from caan.pictures.regions import read_picture
from caan.report.find_pictures import PictureFolder

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch pwned) (w) file\nshowpage\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for place in ("secret.png", "photos/a.png", "photos-2.png", "photos/sub/b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / place)
    return tmp_path / "photos"


def outside(folder):
    """Ids that point outside a folder."""
    (folder / "link.png").symlink_to("../secret.png")
    (folder / "far.png").symlink_to(folder.parent / "secret.png")
    (folder / "up").symlink_to("..")
    (folder / "twice.png").symlink_to("link.png")
    hard = [
        "../secret",
        "../secret.png",
        "sub/../../secret.png",
        "./../photos/../secret.png",
        "up/secret.png",
        "../photos-2",
    ]
    return [*hard, "link", "far.png", "twice", str(folder.parent / "secret.png"), f"{folder}/../secret.png"]


@pytest.mark.parametrize("given", [True, False])
def test_an_id_never_leads_outside(folder, monkeypatch, given):
    monkeypatch.chdir(folder)
    pictures = PictureFolder(folder if given else None)
    for name in outside(folder):
        assert pictures.path_of(name) is None, name
        assert pictures.thumbnail(name).reason == "no picture with this name"
    for name in ("a", "sub/b.png", "sub/../a.png", str(folder / "a.png")):
        assert pictures.thumbnail(name).uri is not None, name


def test_a_folder_that_is_a_link_is_what_it_leads_to(folder):
    (folder.parent / "shown").symlink_to("photos")
    assert PictureFolder(folder.parent / "shown").thumbnail("a").uri is not None


@pytest.mark.parametrize(
    "name", ["pipe.png", "folder.png", "loop.png", "dangling.png", "\0.png", "\ud800.png", "a" * 5000]
)
def test_names_of_what_is_not_a_file(folder, name):
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "dangling.png").symlink_to("nowhere.png")
    assert PictureFolder(folder).thumbnail(name).reason == "no picture with this name"


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PDF", "EPS", "ICNS"])
@pytest.mark.parametrize("extension", [".png", ".jpg", ".webp"])
def test_other_formats_are_refused_whatever_their_name(folder, form, extension, monkeypatch):
    Image.new("RGB", (16, 16)).save(folder / f"x{extension}", form)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was run"))
    shown = PictureFolder(folder).thumbnail("x")
    assert shown.uri is None and f"x{extension} can't be read as a picture" in shown.reason


def test_postscript_reaches_no_interpreter(folder, monkeypatch):
    (folder / "x.png").write_bytes(POSTSCRIPT)
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was run"))
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("a program was run"))
    with pytest.raises(DataError, match=r"x\.png can't be read as a picture"):
        read_picture(folder / "x.png")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats_are_known_by_content(folder, form):
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "x.png", form)
    assert read_picture(folder / "x.png").size == (64, 64)
    content = (folder / "x.png").read_bytes()
    (folder / "x.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"x\.png can't be read as a picture"):
        read_picture(folder / "x.png")


def png(width: int, height: int) -> bytes:
    """A PNG that claims this size without the data."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_001, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_too_many_pixels_are_refused_before_decoding(folder, size, monkeypatch):
    (folder / "bomb.png").write_bytes(png(*size))
    monkeypatch.setattr(Image.Image, "convert", lambda *_, **__: pytest.fail("decoded"))
    shown = PictureFolder(folder).thumbnail("bomb")
    assert shown.uri is None and "bomb.png" in shown.reason and "smaller first" in shown.reason


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin"])
def test_a_device_is_not_read(path):
    if not Path(path).exists():
        pytest.skip(f"this system has no {path}")
    with pytest.raises(DataError, match="can't be read as a picture"):
        read_picture(Path(path))
