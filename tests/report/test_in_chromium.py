"""The pages in an offline browser: no console messages, no requests, no wider than a phone."""

import re

import pytest

from caan.bundle import open_bundle
from caan.report.find_pictures import PictureFolder
from caan.report.page import bench_page
from caan.report.search_page import search_page
from caan.report.source import open_source
from caan.runtime import Hit, Retriever

PHONE = 390  # pixels
BLANK = "<!doctype html><html><head><meta charset=utf-8><title>x</title></head><body>{}</body></html>"
# A window has a minimum width, a frame does not.
FRAME = """<iframe src="page.html" style="width: {width}px; height: 800px; border: 0"></iframe><script>
const frame = document.querySelector("iframe"), page = () => frame.contentDocument.documentElement
frame.onload = () => {{ document.title = page().scrollWidth + " in " + page().clientWidth }}</script>"""


@pytest.fixture
def report(result, data, tiny_folder, tmp_path):
    page = tmp_path / "page.html"
    source = open_source(data, "test", None, None)
    page.write_text(bench_page(result, open_bundle(tiny_folder / "model.caan"), source), encoding="utf-8")
    return page


@pytest.fixture
def search(data, tiny_folder, tmp_path):
    split, page = open_source(data, "test", None, None).split, tmp_path / "page.html"
    gallery = Retriever.open(tiny_folder / "model.caan").encode_images(split.features, ids=split.ids)
    found, pictures = [[Hit(number, 0.5) for number in range(6)]], PictureFolder(data / "thumbnails")
    page.write_text(search_page("<gallery>", [split.captions[3]], found, gallery, pictures), encoding="utf-8")
    return page


@pytest.mark.parametrize("kind", ["report", "search"])
def test_a_page_is_quiet_and_fits_a_phone(request, complaints, chromium, tmp_path, kind):
    page = request.getfixturevalue(kind)
    assert complaints(page) == []
    assert overflow(chromium, tmp_path) == 0


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", []),
        ("<script>console.error('wrong')</script>", ["wrong"]),
        ("<script>nothing_of_this_name()</script>", ["nothing_of_this_name is not defined"]),
        ("<img src='http://example.invalid/x.png'>", ["http://example.invalid/x.png"]),
        ("<link rel=stylesheet href='http://example.invalid/y.css'>", ["http://example.invalid/y.css"]),
    ],
)
def test_the_check_itself_hears_what_is_wrong(complaints, tmp_path, content, expected):
    page = tmp_path / "page.html"
    page.write_text(BLANK.format(content))
    said = complaints(page)
    assert len(said) == len(expected)
    assert all(text in line for text, line in zip(expected, said, strict=True))


def test_the_check_itself_sees_what_is_too_wide(chromium, tmp_path):
    (tmp_path / "page.html").write_text(BLANK.format("<div style='width: 500px'>wide</div>"))
    assert overflow(chromium, tmp_path) > 0


def overflow(chromium, folder):
    """How many pixels folder/page.html is wider than a phone."""
    (folder / "frame.html").write_text(BLANK.format(FRAME.format(width=PHONE)))
    document = chromium(folder / "frame.html", "--allow-file-access-from-files").stdout
    needed, there = map(int, re.search(r"<title>(\d+) in (\d+)</title>", document).groups())
    return needed - there
