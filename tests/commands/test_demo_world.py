"""`caan demo-world`: its options reach the work, and wrong ones are refused."""

import pytest

from caan.data.demo import large
from caan.data.demo.world import world_vocabulary
from caan.data.scan import open_split


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(large, "world_vocabulary", lambda seed: world_vocabulary(seed, 9))


def test_it_writes_a_split(run, tmp_path):
    outcome = run(
        "demo-world",
        tmp_path,
        "--images",
        2,
        "--split",
        "more",
        "--first",
        7,
        "--seed",
        3,
        "--processes",
        1,
        "--pictures",
    )
    assert outcome.code == 0
    assert outcome.out == f"{tmp_path}: more, 2 scenes from number 7 on, 10 captions\n"
    assert open_split(tmp_path, "more").ids == ["scene-000007", "scene-000008"]
    assert (tmp_path / "thumbnails" / "scene-000007.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--images"),
        (("--images", 0), "'--images'"),
        (("--images", "many"), "'--images'"),
        (("--images", 1, "--first", -1), "'--first'"),
        (("--images", 1, "--processes", 0), "'--processes'"),
        (("--images", 1, "--split", "a/b"), "can't name a split"),
        (("--images", 10**12), "free some space"),
    ],
)
def test_bad_usage(run, tmp_path, arguments, says):
    outcome = run("demo-world", tmp_path / "data", *arguments)
    assert outcome.code == 2 and says in outcome.err and "Traceback" not in outcome.err
    assert not (tmp_path / "data").exists()
