"""`caan index` killed (SIGKILL) at any of its writes: the same command resumes and produces identical files."""

import json
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from caan.errors import CaanWarning
from caan.runtime import Gallery, Retriever
from caan.runtime.scoring.tuning import is_tunable
from tests.conftest import tree

IMAGES, MORE = 300, 150  # three blocks, and two of an append

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed as on POSIX")


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture(scope="module", autouse=True)
def tuned(retriever):
    """Fill the cache first, so that every run makes the same writes."""
    if is_tunable(retriever.backend):
        retriever.tune(retriever.encode_images(np.ones((IMAGES, 5, 12), np.float32)))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Features and ids of a gallery, of an append to it, and of one it replaces."""
    folder, generator = tmp_path_factory.mktemp("inputs"), np.random.default_rng(0)
    for name, images in (("first", IMAGES), ("more", MORE), ("old", IMAGES)):
        features = generator.standard_normal((images, 5, 12)).astype(np.float32)
        np.save(folder / f"{name}.npy", features)
        (folder / f"{name}.txt").write_text("".join(f"{name} {n}.jpg\n" for n in range(images)))
    return folder


@pytest.fixture
def index(tiny_folder, inputs):
    """index(name, target, *options): arguments of `caan index` for one of the inputs."""
    bundle = tiny_folder / "model.caan"
    return lambda name, target, *options: [
        str(a)
        for a in ("index", bundle, inputs / f"{name}.npy", "--ids", inputs / f"{name}.txt", "-o", target, *options)
    ]


def killed(commands, points):
    """Run each command until killed at a write; the number of calls of those that completed."""
    program = [sys.executable, Path(__file__).with_name("kill_at.py")]
    job = json.dumps({"points": points, "commands": commands})
    done = subprocess.run(program, input=job, capture_output=True, text=True, timeout=300)
    assert "MADE" in done.stdout, done.stderr
    return json.loads(done.stdout.rpartition("MADE ")[2])


def sample(points, calls):
    """A fixed sample of the calls, including the first and the last."""
    return sorted({1, calls, *random.Random(0).sample(range(1, calls + 1), points - 2)})


def results(retriever, gallery):
    opened = Gallery.open(gallery)
    return [(opened.ids[hit.index], hit.score) for hit in retriever.search("w1 w2", opened, 10)]


def alone(target):
    return [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_new_gallery(run, index, tmp_path):
    expected = tmp_path / "expected" / "gallery"
    (calls,) = killed([index("first", expected)], [None])
    points = sample(20, calls)
    targets = [tmp_path / f"killed-{point}" / "gallery" for point in points]
    assert killed([index("first", target) for target in targets], points) == [None] * len(points)
    for target in targets:
        if not target.exists():
            assert run(*index("first", target)).code == 0
        assert tree(target) == tree(expected) and alone(target), target


def test_an_append(run, retriever, index, tmp_path):
    base, expected = tmp_path / "base" / "gallery", tmp_path / "expected" / "gallery"
    assert run(*index("first", base)).code == 0
    shutil.copytree(base, expected)
    (calls,) = killed([index("more", expected, "--append")], [None])
    before, after = results(retriever, base), results(retriever, expected)
    assert before != after
    points = sample(12, calls)
    targets = [Path(shutil.copytree(base, tmp_path / f"killed-{point}" / "gallery")) for point in points]
    killed([index("more", target, "--append") for target in targets], points)
    for target in targets:
        assert results(retriever, target) == (after if len(Gallery.open(target)) == IMAGES + MORE else before)
        if tree(target) != tree(expected):
            assert run(*index("more", target, "--append")).code == 0
        assert tree(target) == tree(expected) and alone(target), target


def test_a_replacement(run, retriever, index, tmp_path):
    base, expected = tmp_path / "base" / "gallery", tmp_path / "expected" / "gallery"
    assert run(*index("old", base)).code == 0
    shutil.copytree(base, expected)
    (calls,) = killed([index("first", expected, "--overwrite")], [None])
    before, after = results(retriever, base), results(retriever, expected)
    points = sample(12, calls)
    targets = [Path(shutil.copytree(base, tmp_path / f"killed-{point}" / "gallery")) for point in points]
    killed([index("first", target, "--overwrite") for target in targets], points)
    for target in targets:
        assert results(retriever, target) in (before, after)
        assert run(*index("first", target, "--overwrite")).code == 0
        assert tree(target) == tree(expected) and alone(target), target


def test_a_compaction(run, retriever, index, tmp_path):
    base, expected = tmp_path / "base" / "gallery", tmp_path / "expected" / "gallery"
    assert run(*index("first", base)).code == 0
    assert run("delete", base, *(f"first {n}.jpg" for n in range(0, IMAGES, 2))).code == 0
    shutil.copytree(base, expected)
    (calls,) = killed([["compact", str(expected)]], [None])
    assert len(Gallery.open(expected)) == IMAGES // 2
    points = sample(12, calls)
    targets = [Path(shutil.copytree(base, tmp_path / f"killed-{point}" / "gallery")) for point in points]
    killed([["compact", str(target)] for target in targets], points)
    for target in targets:
        assert tree(target) in (tree(base), tree(expected)), target
        assert run("compact", target).code == 0
        assert tree(target) == tree(expected) and alone(target), target


def test_an_append_killed_before_removing_its_journal_is_not_undone(run, index, tmp_path):
    """Nor is it repeated: the same command has nothing left to do."""
    target = tmp_path / "gallery"
    assert run(*index("first", target)).code == 0
    assert run(*index("more", target, "--append")).code == 0
    done = tree(target)
    journal = journal_of(target, blocks=3)
    (target / "journal.jsonl").write_text(journal)
    assert run(*index("more", target, "--append")).code == 0
    assert tree(target) == done
    (target / "journal.jsonl").write_text(journal)
    assert run(*index("old", target, "--append")).code == 0
    assert Gallery.open(target).ids == [
        f"{name} {n}.jpg"
        for name, images in (("first", IMAGES), ("more", MORE), ("old", IMAGES))
        for n in range(images)
    ]
    assert (target / "states.bin").read_bytes().startswith(done["states.bin"])


def journal_of(gallery, blocks):
    """The journal of an append after `blocks` blocks."""
    description = json.loads((gallery / "gallery.json").read_text())
    header = {key: description[key] for key in ("kind", "encoder", "dtype", "columns", "compact")}
    lines = [{**header, "blocks": blocks}, *description["blocks"][blocks:]]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_a_resumed_run_prints_nothing(run, index, tmp_path):
    target = tmp_path / "gallery"
    killed([index("first", target)], [40])
    with warnings.catch_warnings():
        warnings.simplefilter("error", CaanWarning)
        assert run(*index("first", target)).code == 0
