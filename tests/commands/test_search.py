"""`caan search`: one caption or many, as text, JSON or a page with pictures."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from caan.runtime import Gallery, Retriever

from ..conftest import add_half_precision
from ..report.conftest import Page, check_self_contained

IDS = ["a", "b.png", "sub/c", "<i>d</i>", "missing", "f"]


@pytest.fixture
def gallery(run, tiny_folder, tiny_data, tmp_path):
    """A gallery of six images, all but one with a picture under tmp_path/pictures."""
    for name in IDS:
        path = tmp_path / "pictures" / (name if name.endswith(".png") else f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        if name != "missing":
            Image.new("RGB", (300, 150), (10, 20, 200)).save(path)
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n")
    command = ["index", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "--ids", tmp_path / "ids.txt"]
    done = run(*command, "-o", tmp_path / "gallery")
    assert done.code == 0, done.err
    return tmp_path / "gallery"


@pytest.fixture
def captions(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("w1 w2\nw3 <script>alert(1)</script>\nw4\n")
    return path


def test_many_captions_have_the_hits_that_each_has_alone(run, gallery, captions):
    result = json.loads(run("search", gallery, "--captions", captions, "--json", "-k", 3).out)
    assert [group["caption"] for group in result] == captions.read_text().splitlines()
    for group in result:
        alone = json.loads(run("search", gallery, group["caption"], "--json", "-k", 3).out)
        assert [hit["id"] for hit in group["hits"]] == [hit["id"] for hit in alone]
        # Captions encoded in a batch differ from single ones in the last digits.
        assert np.allclose([h["score"] for h in group["hits"]], [h["score"] for h in alone], atol=1e-5)


def test_many_captions_as_text_are_grouped_by_caption(run, gallery, captions):
    result = json.loads(run("search", gallery, "--captions", captions, "--json").out)
    done = run("search", gallery, "--captions", captions)
    assert done.code == 0
    for group, block in zip(result, done.out.split("\n\n"), strict=True):
        caption, *lines = block.strip("\n").splitlines()
        assert caption == group["caption"]
        expected = [[str(rank), f"{hit['score']:.4f}", hit["id"]] for rank, hit in enumerate(group["hits"], 1)]
        assert [line.split() for line in lines] == expected


def test_hits_are_the_runtime_s(run, gallery, tiny_folder):
    hits = json.loads(run("search", gallery, "w1 w2", "--json").out)
    opened = Gallery.open(gallery)
    expected = Retriever.open(tiny_folder / "model.caan").search("w1 w2", opened, 6)
    assert [hit["index"] for hit in hits] == [hit.index for hit in expected]
    assert [hit["id"] for hit in hits] == [IDS[hit.index] for hit in expected]
    assert np.allclose([hit["score"] for hit in hits], [hit.score for hit in expected], atol=1e-6)


@pytest.fixture
def mixed(tmp_path):
    path = tmp_path / "mixed.txt"
    path.write_text("w1 w2\n\nzebra quagga\nw3 quagga\n \t\n")
    return path


def test_captions_that_can_t_be_searched_with_do_not_stop_the_others(run, gallery, mixed):
    done = run("search", gallery, "--captions", mixed, "-k", 2)
    assert done.code == 1
    assert [block.splitlines()[0] for block in done.out.split("\n\n")] == ["w1 w2", "w3 quagga"]
    warning, *errors = done.err.splitlines()
    assert warning == f"Warning: {mixed}, line 4: the vocabulary lacks 'quagga', counted as unknown"
    assert errors == [
        f"{mixed}, line 2: the caption is empty; write at least one word",
        f"{mixed}, line 3: no word of 'zebra quagga' is in the model's vocabulary; try other words",
        f"{mixed}, line 5: the caption is empty; write at least one word",
        "Error: 3 of 5 captions failed; see the lines above",
    ]


def test_as_json_every_line_has_its_entry(run, gallery, mixed):
    done = run("search", gallery, "--captions", mixed, "-k", 2, "--json")
    entries = json.loads(done.out)
    assert done.code == 1
    assert [(entry["line"], entry["caption"]) for entry in entries] == [
        (1, "w1 w2"),
        (2, ""),
        (3, "zebra quagga"),
        (4, "w3 quagga"),
        (5, ""),
    ]
    assert [len(entry["hits"]) for entry in entries] == [2, 0, 0, 2, 0]
    assert [entry.get("unknown_words") for entry in entries] == [[], None, None, ["quagga"], None]
    assert ["error" in entry for entry in entries] == [False, True, True, False, True]


def test_a_page_has_the_captions_that_were_answered(run, gallery, mixed, tmp_path):
    done = run("search", gallery, "--captions", mixed, "--html", tmp_path / "page.html")
    assert done.code == 1
    text = Page((tmp_path / "page.html").read_text(encoding="utf-8")).text
    assert "w1 w2" in text and "w3 quagga" in text and "zebra" not in text


def test_without_any_caption_to_search_with_no_page_is_written(refused, gallery, tmp_path):
    (tmp_path / "unknown.txt").write_text("zebra\n\n")
    refused("search", gallery, "--captions", "unknown.txt", "--html", "p.html", says=["no word of 'zebra'"])


def test_captions_come_from_standard_input(run, gallery, captions, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(captions.read_bytes())))
    piped = run("search", gallery, "--captions", "-")
    assert piped.code == 0 and piped.out == run("search", gallery, "--captions", captions).out


def test_a_page_shows_pictures_where_ids_name_them(run, gallery, captions, tmp_path):
    page = tmp_path / "page.html"
    command = ["search", gallery, "--captions", captions, "--html", page, "--pictures", tmp_path / "pictures"]
    done = run(*command)
    assert done.code == 0
    made = Page(page.read_text(encoding="utf-8"))
    check_self_contained(made)
    assert len(made.attributes("src")) == 3 * 5
    assert made.text.count("missing no picture with this name") == 3
    for text in captions.read_text().splitlines():
        assert text in made.text
    for hit in json.loads(run("search", gallery, "w1 w2", "--json").out):
        assert f"{hit['score']:.4f}".replace("-", "−") in made.text and hit["id"] in made.text


def test_ids_are_paths_from_the_current_folder_without_pictures(run, gallery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "pictures")
    assert run("search", gallery, "w1", "--html", "page.html").code == 0
    assert len(Page((tmp_path / "pictures" / "page.html").read_text(encoding="utf-8")).attributes("src")) == 5


def test_a_page_without_any_picture_is_of_ids(run, gallery, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("search", gallery, "w1", "--html", "page.html").code == 0
    made = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert made.attributes("src") == [] and "--pictures DIR" in made.text
    assert [tag for tag, _ in made.elements].count("li") == 6 and "<i>d</i>" in made.text


def test_a_page_of_very_many_captions_has_pictures_for_the_first(run, gallery, tmp_path, monkeypatch):
    monkeypatch.setattr("caan.report.search_page.MOST_PICTURES", 13)
    (tmp_path / "many.txt").write_text("w1\nw2\nw3\nw4\n")
    command = ["search", gallery, "--captions", tmp_path / "many.txt", "--html", tmp_path / "page.html"]
    assert run(*command, "--pictures", tmp_path / "pictures").code == 0
    made = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert len(made.attributes("src")) == 2 * 5
    assert "Only the first captions have pictures; the last 2 show text" in made.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], ["give exactly one of CAPTION", "--captions"]),
        (["w1", "--captions", "captions.txt"], ["exactly one of"]),
        (["w1", "--pictures", "."], ["--pictures is for the HTML page", "--html"]),
        (["--captions", "nowhere.txt"], ["can't read nowhere.txt"]),
        (["--captions", "."], ["can't read ."]),
        (["--captions", "empty.txt"], ["empty.txt is empty", "one caption a line"]),
        (["--captions", "latin1.txt"], ["latin1.txt, line 1 is not UTF-8", "iconv"]),
        (["--captions", "captions.txt", "-k", "7"], ["k is 7, the gallery has 6 items", "ask for 1 to 6"]),
        (["w1", "--html", "captions.txt/page.html"], ["can't write captions.txt/page.html", "name another place"]),
        (["w1", "--html", "pictures"], ["can't write pictures", "name another place"]),
        (["w1", "--html", "p.html", "--pictures", "nowhere"], ["nowhere is not a folder"]),
        (["zebra", "--html", "p.html"], ["no word of 'zebra'"]),
    ],
)
def test_wrong_input_is_refused_and_nothing_is_written(refused, gallery, captions, tmp_path, arguments, says):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\n")
    refused("search", gallery, *arguments, says=says)


def test_a_gallery_of_captions_is_refused(run, refused, tiny_folder, tiny_data, tmp_path):
    done = run("index", tiny_folder / "model.caan", tiny_data / "test_caps.txt", "-o", tmp_path / "texts")
    assert done.code == 0, done.err
    refused("search", tmp_path / "texts", "w1", says=["texts holds captions", "caan index BUNDLE FEATURES.npy"])


def test_a_page_needs_jinja2(refused, gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    refused("search", gallery, "w1", "--html", "p.html", code=4, says=["--html needs the package 'jinja2'", "plot"])


def test_the_gallery_s_own_precision_is_found(run, tiny_bundle, tiny_data, tmp_path):
    add_half_precision(tiny_bundle)
    made = run("index", tiny_bundle, tiny_data / "test_ims.npy", "-o", tmp_path / "half", "--precision", "fp16")
    assert made.code == 0, made
    result = run("search", tmp_path / "half", "w1 w2", "-k", 2)
    assert result.code == 0 and len(result.out.splitlines()) == 2
    assert run("search", tmp_path / "half", "w1 w2", "-k", 2, "--precision", "fp32").code == 2
