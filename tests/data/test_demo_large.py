"""`caan demo-world`: the same bytes on any number of processes and after any interruption, and nothing of the user's
replaced."""

import errno
import math
import multiprocessing
import operator
import os
import shutil

import numpy as np
import pytest

from caan.data.convert import writing
from caan.data.demo import large, processes
from caan.data.demo.large import FIRST, WorldPart, write_part
from caan.data.demo.processes import in_order
from caan.data.demo.world import make_split, world_vocabulary, write_world
from caan.data.scan import open_split
from caan.errors import CaanError, DataError, OutputError
from tests.conftest import tree

SCENES = 7
PART = WorldPart(SCENES)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of two scenes, and a vocabulary of few captions."""
    monkeypatch.setattr(writing, "_BLOCK", 2)
    monkeypatch.setattr(large, "_BLOCK", 2)
    monkeypatch.setattr(large, "world_vocabulary", lambda seed: world_vocabulary(seed, 9))


@pytest.fixture(scope="module")
def expected():
    return make_split(SCENES, first=FIRST)


@pytest.fixture
def whole(tmp_path):
    """The files of PART, drawn at once."""
    write_part(tmp_path / "whole", PART, 1)
    return tree(tmp_path / "whole")


def test_a_part_is_a_split_of_scenes_that_the_demo_does_not_use(tmp_path, expected):
    said = []
    write_part(tmp_path, PART, 1, said.append)
    split = open_split(tmp_path, "gallery")
    np.testing.assert_array_equal(split.features, expected.features)
    np.testing.assert_array_equal(np.load(tmp_path / "gallery_boxes.npy"), expected.boxes)
    assert split.ids == expected.ids == [f"scene-{number:06d}" for number in range(2000, 2007)]
    assert split.captions == [caption for group in expected.captions for caption in group]
    assert not (tmp_path / "thumbnails").exists()
    assert said[0].startswith("drawing 7 scenes: about ")


def test_it_joins_the_demo_s_world(tmp_path, expected):
    write_world(tmp_path, train=9, dev=1, test=1)
    before = tree(tmp_path)
    write_part(tmp_path, WorldPart(2, first=3, split="more", pictures=True), 1)
    after = tree(tmp_path)
    assert after.items() >= before.items()
    np.testing.assert_array_equal(np.load(tmp_path / "more_ims.npy"), np.load(tmp_path / "train_ims.npy")[3:5])
    assert after.keys() - before.keys() >= {"thumbnails/scene-000003.png", "thumbnails/scene-000004.png"}


def test_several_processes_give_the_same_bytes(tmp_path, whole):
    write_part(tmp_path / "two", PART, 2)
    assert tree(tmp_path / "two") == whole


@pytest.mark.parametrize("at", range(13))
def test_an_interrupted_run_resumes_and_writes_the_same_bytes(tmp_path, monkeypatch, whole, at):
    """Every place where what was written before matters; text beyond the last note of progress stands for a kill."""
    calls = {"n": 0}

    def interrupting(function):
        def call(*arguments, **keywords):
            calls["n"] += 1
            if calls["n"] == at + 1:
                raise KeyboardInterrupt
            return function(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in ("_checked", "_note", "_move"):
            patch.setattr(writing, name, interrupting(getattr(writing, name)))
        with pytest.raises(KeyboardInterrupt):
            write_part(tmp_path / "data", PART, 1)
    assert not (tmp_path / "data" / "gallery_ims.npy").exists()
    partial = tmp_path / "data" / "gallery.partial"
    if (partial / "caps.txt").exists() and not writing._state(partial).get("published"):
        with (partial / "caps.txt").open("ab") as file:
            file.write(b"half a capt")
    write_part(tmp_path / "data", PART, 1)
    assert tree(tmp_path / "data") == whole


def test_resuming_draws_only_the_rest(tmp_path, monkeypatch, whole):
    drawn = []
    monkeypatch.setattr(large, "_estimate", lambda *_: "")
    real = large.draw_scene

    def stopping(number, seed):
        drawn.append(number - FIRST)
        if len(drawn) == 7:
            raise KeyboardInterrupt
        return real(number, seed)

    monkeypatch.setattr(large, "draw_scene", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_part(tmp_path / "data", PART, 1)
    drawn.clear()
    drawn.extend([-1] * 7)
    write_part(tmp_path / "data", PART, 1)
    assert drawn[7:] == [0, 4, 5, 6]  # the first one for its shape
    assert tree(tmp_path / "data") == whole


def test_captions_lost_with_the_disk_s_cache_are_drawn_again(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        patch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_part(tmp_path / "data", PART, 1)
    (tmp_path / "data" / "gallery.partial" / "caps.txt").write_text("one\n")
    write_part(tmp_path / "data", PART, 1)
    assert tree(tmp_path / "data") == whole


def test_the_leftovers_of_another_run_are_not_resumed(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        patch.setattr(writing, "_move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_part(tmp_path / "data", WorldPart(SCENES, first=5), 1)
    write_part(tmp_path / "data", PART, 1)
    assert tree(tmp_path / "data") == whole


def test_a_split_is_replaced_only_when_asked(tmp_path, whole):
    write_part(tmp_path / "data", WorldPart(2), 1)
    before = tree(tmp_path / "data")
    with pytest.raises(OutputError, match=r"gallery_ims\.npy exists already; add --overwrite"):
        write_part(tmp_path / "data", PART, 1)
    assert tree(tmp_path / "data") == before
    write_part(tmp_path / "data", PART, 1, overwrite=True)
    assert tree(tmp_path / "data") == whole


@pytest.mark.parametrize("content", [None, b"mine", b'{"word": 1}'])
def test_a_folder_with_another_vocabulary_is_left_alone(tmp_path, content):
    path = tmp_path / "vocab.json"
    path.write_bytes(content) if content else world_vocabulary(1, 9).save(path)
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"vocab\.json is not the vocabulary of the world of seed 0"):
        write_part(tmp_path, PART, 1)
    assert tree(tmp_path) == before


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match=r"1,000,000 scenes need 6\.7 GB, the disk of .* has 0\.0 GB free"):
        write_part(tmp_path / "data", WorldPart(1_000_000), 1)
    assert tree(tmp_path) == {}


def test_a_disk_that_fills_leaves_nothing_or_what_can_be_resumed(tmp_path, monkeypatch, whole):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "reserve", full)
        with pytest.raises(OutputError, match="is full"):
            write_part(tmp_path / "data", PART, 1)
        assert not (tmp_path / "data").exists()
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OutputError, match="rerun the same command to resume"):
            write_part(tmp_path / "data", PART, 1)
        assert not (tmp_path / "data" / "gallery_ims.npy").exists()
    write_part(tmp_path / "data", PART, 1)
    assert tree(tmp_path / "data") == whole


@pytest.mark.parametrize(
    ("part", "count", "says"),
    [
        (WorldPart(0), 1, "can't draw 0 scenes"),
        (WorldPart(-3), 1, "can't draw -3 scenes"),
        (WorldPart(1, first=-1), 1, "from number -1 on"),
        (PART, 0, "can't draw on 0 processes"),
        (WorldPart(1, split="../x"), 1, "'../x' can't name a split"),
        (WorldPart(1, split=""), 1, "'' can't name a split"),
    ],
)
def test_numbers_and_names_that_are_not_possible(tmp_path, part, count, says):
    with pytest.raises(DataError, match=says):
        write_part(tmp_path / "data", part, count)
    assert tree(tmp_path) == {}


def test_a_file_in_the_folder_s_place(tmp_path):
    (tmp_path / "data").write_text("mine")
    with pytest.raises(OutputError, match="can't write"):
        write_part(tmp_path / "data", PART, 1)
    assert tree(tmp_path) == {"data": b"mine"}


def test_results_come_in_order_and_errors_name_their_cause():
    assert list(in_order(math.factorial, range(20), 2)) == [math.factorial(n) for n in range(20)]
    with pytest.raises(RuntimeError, match="ValueError: factorial"):
        list(in_order(math.factorial, [3, -1], 2))
    with pytest.raises(CaanError, match=r"a drawing process was ended.*; rerun the same command to resume"):
        list(in_order(os._exit, [1, 1], 2))


def test_few_results_wait_for_an_earlier_one(monkeypatch):
    """Connections that answer at once, the first task's last."""
    answers = [[], []]

    class Connection:
        def __init__(self, number):
            self.number = number

        def send(self, task):
            answers[self.number].append(task)

        def recv(self):
            return answers[self.number].pop(0)

    slow, fast = Connection(0), Connection(1)
    begun = []

    def ready(busy):
        begun.append(max(max(tasks, default=0) for tasks in answers))
        return [fast] if fast in busy else [slow]

    monkeypatch.setattr(processes, "wait", ready)
    assert list(processes._collected(range(12), [fast, slow])) == list(range(12))
    assert begun[0] < 4


def test_a_drawing_process_ends_with_its_parent(monkeypatch):
    monkeypatch.setattr(processes.signal, "signal", lambda *_: None)
    here, there = multiprocessing.Pipe()
    here.send(5)
    here.close()
    processes._serve(operator.neg, there)  # returns
