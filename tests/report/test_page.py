"""The report shows the measurements, escapes data, and loads nothing."""

import base64
import io
import sys

import numpy as np
import pytest
from PIL import Image

from caan.bundle import open_bundle
from caan.errors import BundleError, DataError, MissingError
from caan.report.page import bench_page
from caan.report.source import open_source
from caan.runtime import Retriever

from .conftest import EVIL, Page, check_self_contained


@pytest.fixture
def page(result, data, tiny_folder):
    """page(…): the report of the synthetic run, with arguments of `open_source`, or without data."""

    def make(pictures=None, grid=None, with_data=True):
        source = open_source(data, "test", pictures, grid) if with_data else None
        return Page(bench_page(result, open_bundle(tiny_folder / "model.caan"), source))

    return make


def badges(page):
    return [
        a["class"].split()[1] for tag, a in page.elements if tag == "span" and a.get("class", "").startswith("badge")
    ]


def test_every_gate_is_told_in_words_and_in_colour(page, result):
    made = page()
    # The overall verdict, then the rows: research form, reference, passing, failing.
    assert badges(made) == ["failed", "none", "none", "passed", "failed"]
    assert "✗ gate failed: onnxruntime int8" in made.text
    assert "✓ passed limit: max |Δ score| 1e-04" in made.text and "✗ failed limit: |Δ rsum| 2" in made.text
    assert "– not applicable measured only for speed" in made.text
    assert "– not applicable the reference itself" in made.text
    result.rows.pop(3)
    assert badges(page()) == ["passed", "none", "none", "passed"]


def test_the_numbers_are_the_result_s(page, result):
    text = page().text
    for row in result.rows[1:4]:
        i, t = row.metrics.image_to_text, row.metrics.text_to_image
        numbers = " ".join(f"{value:.2f}" for value in (i.r1, i.r5, i.r10, t.r1, t.r5, t.r10, row.metrics.rsum))
        assert numbers in text
    far = result.rows[3].parity
    low, high = (f"{value:+.2f}".replace("-", "−") for value in far.delta_rsum_interval)
    assert f"{low} to {high}" in text
    assert f"{far.top10_overlap:.2f} {far.rank_flips} {far.max_abs:.1e} {far.mean_abs:.1e}" in text
    assert "2,500 2.50 500 600 1,024" in text  # pairs/s, the ratio, images/s, captions/s, MiB
    assert "100 0.10 – – 1,024" in text


def test_a_row_that_did_not_run_has_its_reason(page):
    assert "tensorrt fp16 cuda : no <GPU> here" in page().text


def test_what_data_says_is_shown_and_never_run(page):
    made = page()
    check_self_contained(made)
    assert EVIL in made.text  # complete, as text
    assert "<b>bold<b>.png" in made.attributes("alt") and "quote'\"" in made.attributes("alt")
    policy = next(a["content"] for tag, a in made.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy


def test_pictures_are_small_jpegs(page):
    uris = page().attributes("src")
    assert uris
    for uri in uris:
        picture = _decoded(uri)
        assert picture.format == "JPEG" and max(picture.size) <= 224


def test_an_image_without_a_picture_has_its_name_in_place(page, result):
    result.rows[2].scores[5] += 10  # now the best hit of every caption
    assert "no picture <i> no picture with this name" in page().text


def test_hits_are_the_row_s_best_with_the_right_one_marked(page, result, data):
    scores = result.rows[2].scores
    text = page().text.partition("What the model attended to")[2]
    assert EVIL in text
    found = 0
    # The centres of four equal parts of thirty.
    for caption in (3, 11, 18, 26):
        best = np.sort(scores[:, caption])[::-1][:5]
        rank = 1 + int((scores[:, caption] > scores[caption // 5, caption]).sum())
        assert f"the correct picture has rank {rank}" in text
        for place, score in enumerate(best, 1):
            right = " ✓ right" if place == rank else " <start>"
            assert f"{place}. {score:.4f}{right}".replace("-", "−") in text
        found += rank <= 5
    assert text.count("✓ right") == found


def test_words_and_regions_are_shaded_by_the_runtime_s_attention(page, result, data, tiny_folder):
    source = open_source(data, "test", None, None)
    best = int(result.rows[2].scores[:, 3].argmax())
    explained = Retriever.open(tiny_folder / "model.caan").explain(
        np.asarray(source.split.features[best]), source.split.captions[3]
    )
    made = page()
    words = [(a["style"], a["title"]) for _, a in made.elements if a.get("class", "").startswith("word")]
    expected = [(f"--w: {share / explained.au.max():.2f}", f"{100 * share:.1f} %") for share in explained.au]
    assert [style for style, _ in words[: len(expected)]] == [style for style, _ in expected]
    assert all(title.startswith(share) for (_, title), (_, share) in zip(words, expected, strict=False))
    assert any(title.endswith("not in the vocabulary") for _, title in words)
    assert any("shaded" in a.get("class", "") for tag, a in made.elements if tag == "img")


def test_the_strongest_region_is_the_brightest_of_the_picture(page, result, data, tiny_folder):
    strips = np.array([[n / 5, 0, (n + 1) / 5, 1] for n in range(5)], np.float32)  # the regions, side by side
    np.save(data / "test_boxes.npy", np.tile(strips, (6, 1, 1)))
    for file in (data / "thumbnails").iterdir():
        Image.new("RGB", (200, 100), (200, 200, 200)).save(file)
    shaded = [a["src"] for tag, a in page().elements if tag == "img" and "shaded" in a.get("class", "")]
    source, retriever = open_source(data, "test", None, None), Retriever.open(tiny_folder / "model.caan")
    expected = []
    for caption in (3, 11, 18, 26):
        for image in np.argsort(-result.rows[2].scores[:, caption])[:5]:
            if image != 5:  # the one without a picture
                explained = retriever.explain(np.asarray(source.split.features[image]), source.split.captions[caption])
                expected.append(int(explained.av.argmax()))
    brightest = [int(np.asarray(_decoded(uri).convert("L"))[50, 20::40].argmax()) for uri in shaded]
    assert brightest == expected and len(set(expected)) > 1


def test_without_boxes_nothing_is_shaded_and_the_page_says_how(page, data):
    (data / "test_boxes.npy").unlink()
    made = page()
    assert "--grid ROWSxCOLUMNS" in made.text
    assert not any("shaded" in a.get("class", "") for tag, a in made.elements if tag == "img")
    assert any(a.get("class", "").startswith("word") for _, a in made.elements)
    assert any("shaded" in a.get("class", "") for tag, a in page(grid=(1, 5)).elements if tag == "img")


def test_without_a_folder_of_pictures_names_stand_for_them(page, data):
    (data / "thumbnails").rename(data / "elsewhere")
    made = page()
    assert made.attributes("src") == [] and "--pictures DIR" in made.text and "with space" in made.text
    assert page(pictures=data / "elsewhere").attributes("src") != []


def test_without_names_images_have_numbers(page, data):
    (data / "test_ids.txt").unlink()
    made = page()
    assert made.attributes("src") == [] and "has no test_ids.txt" in made.text and "image 5" in made.text


def test_without_data_there_is_speed_and_a_sentence(page, result):
    for row in result.rows:
        row.scores = row.metrics = row.parity = None
    made = page(with_data=False)
    check_self_contained(made)
    assert "R@K and the differences from PyTorch need a data set; add --data DIR" in made.text
    assert "2,500 2.50 500 600" in made.text and "gate" not in made.text.replace("Gates:", "")


def test_without_pytorch_there_is_no_gate(page, result):
    for row in result.rows:
        row.parity = None
        if row.spec.backend == "torch":
            row.reason, row.scores, row.rounds = "no checkpoint", None, []
    made = page()
    assert badges(made) == ["none", "none", "none"]
    assert "no PyTorch scores to compare with" in made.text and "no gate applied" in made.text


def test_a_bundle_without_the_explainer_graph_says_so(page, monkeypatch):
    def explain(*arguments):
        raise BundleError("old.caan has no explainer graph; export it again")

    monkeypatch.setattr(Retriever, "explain", explain)
    made = page()
    assert "Attention is not shown: old.caan has no explainer graph; export it again" in made.text
    assert not any(a.get("class", "").startswith("word") for _, a in made.elements)


def test_without_pillow_the_page_says_so(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    made = page()
    assert made.attributes("src") == [] and "[plot]" in made.text


def test_without_jinja2(page, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingError, match=r"needs the package 'jinja2'; pip install '.*\[plot\]'"):
        page()


@pytest.mark.parametrize(("grid", "says"), [((2, 3), "has 6 cells, the features have 5 regions")])
def test_a_grid_that_does_not_fit(data, grid, says):
    with pytest.raises(DataError, match=says):
        open_source(data, "test", None, grid)


def test_a_folder_of_pictures_that_is_none(data):
    with pytest.raises(DataError, match="is not a folder"):
        open_source(data, "test", data / "nowhere", None)


def _decoded(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
