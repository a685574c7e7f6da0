"""Shortcuts of caan-bench, and two bundles."""

import json
import shutil

import pytest

ONLY = ("--only", "onnxruntime fp32", "--threads", 1, "--quick")


def test_quick_is_one_round_of_what_is_named(run, tiny_folder, tmp_path):
    found = tmp_path / "found.json"
    done = run("bench", tiny_folder / "model.caan", "--data", tiny_folder / "data", *ONLY, "--json", found)
    assert done.code == 0, done.err
    assert "1 rounds of 1 rows will take about" in done.err
    rows = [row for row in json.loads(found.read_text())["rows"] if row["reason"] is None]
    assert [(row["label"], len(row["rounds"])) for row in rows] == [("onnxruntime", 1)]


def test_two_bundles_are_measured_in_turns_and_compared(run, tiny_folder, tmp_path):
    other = shutil.copytree(tiny_folder / "model.caan", tmp_path / "other.caan")
    found = tmp_path / "found.json"
    bundles = (tiny_folder / "model.caan", other)
    done = run("bench", *bundles, "--data", tiny_folder / "data", "--limit", 3, *ONLY, "--json", found)
    assert done.code == 0, done.err
    assert f"{other} against {tiny_folder / 'model.caan'}" in done.out
    result = json.loads(found.read_text())
    first, second = (next(r for r in b["rows"] if r["reason"] is None) for b in result["bundles"])
    assert "of these 3 × 15" in result["bundles"][0]["workload"]
    (compared,) = result["comparison"]
    assert compared["row"] == "onnxruntime fp32"
    assert compared["pairs_per_second"] == pytest.approx(second["pairs_per_second"] / first["pairs_per_second"])
    assert compared["rsum"] == [first["metrics"]["rsum"]] * 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("a.caan", "b.caan", "c.caan"), "two bundles are compared"),
        (("a.caan", "b.caan", "--report", "r.html"), "--report and --checkpoint are for one bundle"),
    ],
)
def test_what_does_not_go_together(run, arguments, says):
    done = run("bench", *arguments)
    assert done.code == 2 and says in done.err
