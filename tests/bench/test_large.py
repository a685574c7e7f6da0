"""make bench-large: what was measured is kept, the table says which targets are met, and the model is the demo's."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from caan.bench.large import __main__ as large
from caan.bench.large import prepared, steps
from caan.bench.large.prepared import Prepared, estimate
from caan.bench.large.table import large_table
from caan.errors import CaanError


def curve(direction, items, exact, *points):
    names = ("candidates", "recall", "milliseconds")
    shown = [dict(zip(names, point, strict=True)) for point in points]
    return {"direction": direction, "items": items, "queries": 5, "exact_milliseconds": exact, "points": shown}


RECORD = {
    "steps": {
        "recall 100000": {"curves": [curve("text → image", 100_000, 300.0, (100, 0.9, 5.0), (1000, 0.991, 10.0))]},
        "recall 10000": {
            "curves": [
                curve("text → image", 10_000, 30.0, (100, 0.995, 5.0)),
                curve("image → text", 10_000, 60.0, (100, 0.5, 6.0)),
            ]
        },
        "opening": {"seconds": 0.1, "resident_bytes": 300e6},
        "appending": {"ratio": 1.4},
        "scanning": {"scan": 0.006, "ratio": 1.1},
        "cold": {"candidates": 200, "cold": 20.0, "warm": 2.0},
        "sizes": {"images-100000": {"states.bin": 691_200_000}},
    }
}


def test_the_table_says_what_was_reached():
    text = large_table(RECORD)
    assert text.index("10,000 items") < text.index("100,000 items")
    assert "recall 99.1% with 1,000 candidates: 30.0 × faster than exact search (at least 25 ×: kept)" in text
    assert "10,000 → 100,000 images, same recall: time per query × 2.00 (at most 3 ×: kept)" in text
    assert "0.100 s, 300 MB resident (below 0.2 s and 200 MB: MISSED)" in text
    assert "1.40 × the time of encoding them (at most 1.5 ×: kept)" in text
    assert "6.0 ms, 1.10 × reading them (at most 2 ×: kept)" in text
    assert "20.0 ms from a cold page cache, 2.0 ms once more" in text and "states.bin 691.2 MB" in text


def test_a_recall_that_is_not_reached():
    weak = {"recall 50": {"curves": [curve("text → image", 50, 30.0, (10, 0.5, 5.0))]}}
    assert "50 images: no number of candidates measured reaches 99%" in large_table({"steps": weak})


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Calls of the steps, which do nothing else; `broken`: the one that fails."""
    calls, broken = [], []

    def step(name, result):
        def call(*arguments):
            calls.append(name)
            if name in broken:
                raise CaanError(f"{name} failed")
            return result

        monkeypatch.setattr(steps, name, call)

    step("recall", {"curves": [curve("text → image", 20, 30.0, (10, 1.0, 5.0))]})
    step("sizes", {"states.bin": 1})
    for name in ("scanning", "opening", "cold", "appending"):
        step(name, RECORD["steps"][name])
    folders = {20: tmp_path / "images-20"}
    monkeypatch.setattr(large, "prepare", lambda *_: Prepared(tmp_path, tmp_path, None, folders, folders))
    return calls, broken


def test_an_interrupted_run_measures_only_the_rest(measured, tmp_path):
    calls, broken = measured
    broken.append("opening")
    with pytest.raises(CaanError, match="opening failed"):
        large.run(20, tmp_path, tmp_path, [], print)
    assert calls == ["recall", "scanning", "opening"]
    broken.clear()
    record = large.run(20, tmp_path, tmp_path, [], print)
    assert calls[3:] == ["opening", "cold", "appending", "sizes", "sizes"]
    assert json.loads((tmp_path / "record-20.json").read_text()) == record
    large.run(20, tmp_path, tmp_path, ["cold"], print)
    assert calls[8:] == ["cold"]
    with pytest.raises(CaanError, match="there is no step warm; steps: recall 20, scanning"):
        large.run(20, tmp_path, tmp_path, ["warm"], print)


def test_the_command_writes_a_record(measured, tmp_path, monkeypatch, capsys):
    arguments = ["large", "--images", "20", "--work", str(tmp_path), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    assert large.main() == 0
    (written,) = (tmp_path / "out").iterdir()
    assert written.name.endswith("-cpu-large-20.json") and str(written) in capsys.readouterr().out
    measured[1].append("recall")
    monkeypatch.setattr("sys.argv", [*arguments, "--again", "recall 20"])
    assert large.main() == 1 and "Error: recall failed" in capsys.readouterr().err


def test_the_estimate_grows_with_the_scenes():
    assert estimate(100_000).startswith("100,000 scenes: about ")
    assert float(estimate(1_000_000).split()[-2]) == pytest.approx(20.1, abs=0.5)


@dataclass
class Model:
    folder: Path

    def __call__(self, *arguments):
        self.commands.append([Path(part).name for part in arguments if not str(part).startswith("-")])
        if arguments[0] in ("train", "export"):
            path = Path(arguments[-1])
            path.mkdir() if path.suffix == ".caan" else path.touch()

    def __post_init__(self):
        self.commands = []


@pytest.mark.parametrize("has_demo", [True, False])
def test_the_demo_s_model_is_copied_or_trained_here(tmp_path, monkeypatch, has_demo):
    demo, work = tmp_path / "demo", tmp_path / "work"
    work.mkdir()
    if has_demo:
        (demo / "world").mkdir(parents=True)
        (demo / "world" / "train_ims.npy").touch()
        (demo / "model.caan").mkdir()
        (demo / "model.caan" / "manifest.json").write_text("{}")
    commands = Model(work)
    monkeypatch.setattr(prepared, "_caan", commands)
    monkeypatch.setattr(prepared, "write_world", lambda folder: commands.commands.append(["draw", folder.name]))
    prepared._make_bundle(work / "model.caan", demo, work, lambda _: None)
    sketched = ["sketch", "model.caan.partial", "world" if has_demo else "demo-world"]
    trained = [["draw", "demo-world"], ["train", "demo-world", "demo.pt"], ["export", "demo.pt", "demo.caan"]]
    assert commands.commands == ([sketched] if has_demo else [*trained, sketched])
    assert (work / "model.caan").is_dir()
    assert sorted(path.name for path in demo.glob("*.caan")) == (["model.caan"] if has_demo else [])
