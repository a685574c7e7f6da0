"""`caan bench --report`: the page of a real run, and errors before the measurements."""

import json
import re
import sys

import numpy as np
import pytest
from PIL import Image

from ..report.conftest import Page, check_self_contained


@pytest.mark.slow
def test_a_run_with_data_has_a_page(run, tiny_folder, tiny_data, tmp_path):
    ids = [f"picture {number}" for number in range(6)]
    (tiny_data / "test_ids.txt").write_text("\n".join(ids) + "\n")
    (tmp_path / "pictures").mkdir()
    for name in ids:
        Image.new("RGB", (80, 60), (200, 100, 0)).save(tmp_path / "pictures" / f"{name}.jpg")
    options = [
        "--data",
        tiny_data,
        "--quick",
        "--threads",
        1,
        "--report",
        tmp_path / "r.html",
        "--json",
        tmp_path / "r.json",
    ]
    done = run("bench", tiny_folder / "model.caan", *options, "--pictures", tmp_path / "pictures", "--grid", "5x1")
    assert done.code == 0, done.err
    made = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    check_self_contained(made)
    rows = {
        (row["label"], row["precision"], row["device"]): row
        for row in json.loads((tmp_path / "r.json").read_text())["rows"]
    }
    measured = rows["onnxruntime", "fp32", "cpu"]
    assert f"{measured['pairs_per_second']:,.0f}" in made.text and f"{measured['metrics']['rsum']:.2f}" in made.text
    assert re.search(r"✓ (the gate|all \d gates) passed", made.text)
    absent = [row["reason"] for row in rows.values() if row["reason"]]
    assert all(" ".join(reason.split()) in made.text for reason in absent)
    assert any("shaded" in a.get("class", "") for tag, a in made.elements if tag == "img")
    assert (tmp_path / "r.html").stat().st_size < 3_000_000


@pytest.mark.slow
def test_a_run_without_data_has_a_page_of_speed(run, tiny_folder, tmp_path):
    done = run(
        "bench",
        tiny_folder / "model.caan",
        "--quick",
        "--only",
        "onnxruntime",
        "--threads",
        1,
        "--report",
        tmp_path / "r.html",
    )
    assert done.code == 0, done.err
    made = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    check_self_contained(made)
    assert "add --data DIR" in made.text and "onnxruntime fp32" in made.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--report", "data/test_ims.npy/r.html"], ["can't write", "name another place"]),
        (["--report", "r.html", "--grid", "2x3"], ["a grid of 2x3 has 6 cells, the features have 5 regions"]),
        (["--report", "r.html", "--grid", "six"], ["'six' is not ROWSxCOLUMNS"]),
        (["--report", "r.html", "--grid", "0x5"], ["'0x5' is not ROWSxCOLUMNS"]),
        (["--report", "r.html", "--pictures", "nowhere"], ["nowhere is not a folder"]),
        (["--grid", "1x5"], ["--pictures and --grid are for the pictures", "--report"]),
        (["--pictures", "data"], ["--pictures and --grid are for the pictures", "--report"]),
    ],
)
def test_wrong_input_is_refused_before_anything_is_measured(
    refused, tiny_folder, tiny_data, monkeypatch, arguments, says
):
    monkeypatch.setattr("caan.bench.run.run_benches", _not_reached)
    refused("bench", tiny_folder / "model.caan", "--data", "data", *arguments, says=says)


def test_boxes_that_do_not_fit_are_refused_before_anything_is_measured(refused, tiny_folder, tiny_data, monkeypatch):
    monkeypatch.setattr("caan.bench.run.run_benches", _not_reached)
    np.save(tiny_data / "test_boxes.npy", np.zeros((6, 4, 4), np.float32))
    command = ["bench", tiny_folder / "model.caan", "--data", "data", "--report", "r.html"]
    refused(*command, says=["test_boxes.npy", "(6, 5, 4)"])


def test_a_page_needs_jinja2(refused, tiny_folder, tiny_data, monkeypatch):
    monkeypatch.setattr("caan.bench.run.run_benches", _not_reached)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    command = ["bench", tiny_folder / "model.caan", "--data", "data", "--report", "r.html"]
    refused(*command, code=4, says=["--report needs the package 'jinja2'", "[plot]"])


def _not_reached(*arguments, **options):
    raise AssertionError("measured all the same")
