"""Ids are compared exactly: white space, case and Unicode forms distinguish items."""

import json
from dataclasses import replace

import numpy as np
import pytest

from caan.report.find_pictures import PictureFolder
from caan.report.search_page import search_page
from caan.runtime import Gallery, Retriever
from caan.runtime.index import Images, index_items

IDS = ["a", " a", "a ", "A", "\u00e9", "e\u0301"]


@pytest.fixture
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture
def gallery(retriever, tiny_folder, tmp_path):
    features = np.random.default_rng(0).standard_normal((6, 5, 12)).astype(np.float32)
    index_items(retriever, tiny_folder / "model.caan", Images(retriever, features), tmp_path / "gallery", IDS)
    return tmp_path / "gallery"


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_file_deletes_only_the_items_it_names(run, gallery, tmp_path, name, end):
    (tmp_path / "ids.txt").write_bytes(b"\xef\xbb\xbf" + f"{name}{end}".encode())
    assert run("delete", gallery, "--ids", tmp_path / "ids.txt").code == 0
    found = Gallery.open(gallery)
    assert [found.ids[n] for n in found.live] == [other for other in IDS if other != name]


def test_text_that_only_looks_like_an_id_deletes_nothing(refused, gallery, tmp_path):
    for name in ("a  ", "\ta", "aa", "a\ufeff"):
        (tmp_path / "ids.txt").write_text(f"{name}\n", encoding="utf-8")
        refused("delete", gallery, "--ids", "ids.txt", says=["nothing was deleted"])


def test_a_file_of_ids_is_indexed_as_it_is(run, tiny_folder, tiny_data, tmp_path):
    (tmp_path / "ids.txt").write_bytes("\r\n".join(IDS).encode("utf-8-sig"))
    command = ["index", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "--ids", tmp_path / "ids.txt"]
    assert run(*command, "-o", tmp_path / "gallery").code == 0
    assert Gallery.open(tmp_path / "gallery").ids == IDS


def test_halves_of_surrogate_pairs_in_ids(retriever):
    names = ["\ud800", "a\udfff", "\udce9.png", "b", "\U0001f600", "\x1b]52;\x07"]
    gallery = replace(retriever.encode_images(np.ones((6, 5, 12), np.float32)), ids=names)  # as from elsewhere
    page = search_page("g\udce9", ["w1 \ud800"], [retriever.search("w1", gallery, 6)], gallery, PictureFolder())
    assert page.encode("utf-8") and "\\ud800" in page and "\x1b" not in page


def test_a_gallery_written_by_another_with_halves_of_surrogate_pairs(run, gallery, tmp_path):
    from msgspec.structs import replace

    from caan.runtime.galleries.folder import part_of, read_description, write_description

    content = "".join(f"{json.dumps(name)}\n" for name in ["\ud800", "\udfff", "c", "d", "e", "f"]).encode()
    (gallery / "ids.jsonl").write_bytes(content)
    write_description(gallery, replace(read_description(gallery), ids=part_of(content)))
    done = run("search", gallery, "w1", "--html", tmp_path / "page.html")
    assert "Traceback" not in done.err and done.code in (0, 2)  # shown, or refused by name
