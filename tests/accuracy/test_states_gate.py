"""The gate of bfloat16 and int8 states, alone and in `caan index`."""

import json

import numpy as np
import pytest

from caan.accuracy import states_gate
from caan.accuracy.gate import Limits
from caan.accuracy.states_gate import compared
from caan.accuracy.workload import Workload, data_workload
from caan.errors import GateError
from caan.runtime import Gallery, Retriever


@pytest.fixture
def world():
    """(workload, scores): 300 images of two captions each, found well, but not always."""
    truth = np.repeat(np.arange(300), 2)
    scores = 0.3 * np.random.default_rng(0).standard_normal((300, 600)).astype(np.float32)
    scores += np.arange(300)[:, None] == truth
    return Workload("drawn", np.zeros((300, 1, 1)), ["w"] * 600, truth), scores


@pytest.fixture
def index(run, tiny_folder, tmp_path):
    """index(*options): `caan index` of the tiny images with int8 states, to tmp_path/gallery."""
    data = tiny_folder / "data"

    def call(*options, items="test_ims.npy"):
        command = ["index", tiny_folder / "model.caan", data / items, "-o", tmp_path / "gallery", "--dtype", "int8"]
        return run(*command, *options)

    return call


def test_equal_scores_pass(world):
    workload, scores = world
    accuracy = compared(scores, scores, workload, "int8 states")
    assert accuracy.status == "passed"
    check = accuracy.check
    assert check["what"] == "int8 states against the encoder's own on a data set"
    assert check["top10_kept"] == {"image_to_text": 100.0, "text_to_image": 100.0}
    assert check["parity"]["delta_rsum"] == 0


def test_rsum_alone_may_fail(world):
    workload, scores = world
    worse = scores.copy()
    worse[np.arange(3), 2 * np.arange(3)] = -9  # three captions lose their image
    accuracy = compared(worse, scores, workload, "int8 states")
    assert min(accuracy.check["top10_kept"].values()) >= 98 and accuracy.status == "failed"


@pytest.mark.parametrize("transposed", [False, True])
def test_the_ten_best_of_either_direction_may_fail(world, transposed):
    workload, scores = world
    # One caption, or image, is among everyone's ten best and pushes their tenth out: no query loses its own.
    pushed = scores.copy()
    of_queries = pushed.T if transposed else pushed
    tenth = np.sort(of_queries, axis=1)[:, -10:]
    of_queries[:, 0] = np.minimum(np.maximum(of_queries[:, 0], (tenth[:, 0] + tenth[:, 1]) / 2), tenth[:, -1] - 1e-3)
    accuracy = compared(pushed, scores, workload, "int8 states")
    kept = accuracy.check["top10_kept"]
    assert kept["text_to_image" if transposed else "image_to_text"] < 98
    assert accuracy.status == "failed"


def test_scores_that_are_not_finite_fail(world):
    workload, scores = world
    spoilt = scores.copy()
    spoilt[0, 0] = np.nan
    assert compared(spoilt, scores, workload, "int8 states").status == "failed"


@pytest.mark.parametrize(("items", "kind"), [("test_ims.npy", "image"), ("test_caps.txt", "text")])
def test_the_record_is_in_the_gallery(index, run, tiny_folder, tmp_path, monkeypatch, items, kind):
    monkeypatch.setattr(states_gate, "LIMITS", Limits(delta_rsum=600.0))
    monkeypatch.setattr(states_gate, "LEAST_KEPT", 0.0)
    done = index("--data", tiny_folder / "data", items=items)
    assert (
        done.code == 0
        and "int8 states: passed on data test, 6 images × 30 captions: text to image top-10 kept" in done.out
    )
    gallery = Gallery.open(tmp_path / "gallery")
    assert gallery.kind == kind
    accuracy = gallery.origin.description.accuracy
    assert accuracy.status == "passed"
    # The scores are those that a search gives: the queries' states are not rounded.
    check = accuracy.check
    assert check["what"] == "int8 states against the encoder's own on a data set"
    assert 0 < check["parity"]["max_abs"] < 2e-2
    text = " ".join(run("inspect", tmp_path / "gallery").out.split())
    assert "accuracy passed on data test, 6 images × 30 captions: text to image top-10 kept" in text
    as_json = json.loads(run("inspect", tmp_path / "gallery", "--json").out)
    assert as_json["accuracy"]["check"] == check and as_json["version"] == 4
    # A change keeps it.
    assert gallery.delete([0]).save(tmp_path / "saved").origin.description.accuracy == accuracy


def test_a_missed_gate_writes_nothing_unless_it_is_kept(index, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(states_gate, "LEAST_KEPT", 101.0)
    missed = index("--data", tiny_folder / "data")
    assert missed.code == 3 and list(tmp_path.glob("gallery*")) == []
    assert "int8 states miss their accuracy gate on data test" in missed.err
    assert "top-10 kept 101 %" in missed.err and "--keep-failed" in missed.err
    kept = index("--data", tiny_folder / "data", "--keep-failed")
    assert kept.code == 0 and "int8 states: failed on data test" in kept.out
    assert Gallery.open(tmp_path / "gallery").origin.description.accuracy.status == "failed"


def test_without_data_they_are_ungated(index, run, tmp_path):
    assert "int8 states: ungated: what they cost in R@K is not measured" in index().out
    assert "accuracy ungated" in " ".join(run("inspect", tmp_path / "gallery").out.split())
    assert Gallery.open(tmp_path / "gallery").origin.description.accuracy.status == "ungated"


def test_nothing_is_measured_for_a_gallery_that_can_not_be_written(index, tiny_folder, monkeypatch):
    index()
    monkeypatch.setattr(states_gate, "compared", None)
    again = index("--data", tiny_folder / "data")
    assert again.code == 2 and "--overwrite" in again.err


def test_only_new_small_states_are_gated(index, run, tiny_folder):
    data = tiny_folder / "data"
    for options in (["--append"], ["--dtype", "float16"]):
        done = index("--data", data, *options)
        assert done.code == 2 and "--data gates a new gallery's bfloat16 or int8 states" in done.err


def test_the_gate_in_python(tiny_folder, monkeypatch):
    retriever = Retriever.open(tiny_folder / "model.caan")
    workload = data_workload(tiny_folder / "data", "test")
    kept = states_gate.gate_states(retriever, workload, "image", "int8", compact=True, keep_failed=True)
    assert kept.check["what"] == "int8 states, compact, against the encoder's own on a data set"
    monkeypatch.setattr(states_gate, "LIMITS", Limits(delta_rsum=-1.0))
    with pytest.raises(GateError, match="int8 states miss"):
        states_gate.gate_states(retriever, workload, "image", "int8", compact=True)
