"""`caan demo` writes only to new or empty folders, or its own."""

import pytest

from caan.commands import demo
from caan.data.demo import world
from tests.conftest import tree


class Began(Exception):  # noqa: N818
    pass


@pytest.fixture
def drawn(monkeypatch):
    """drawn(folder): whether the demo would start writing there."""

    def begin(folder):
        raise Began

    monkeypatch.setattr(world, "write_world", begin)

    def call(folder):
        with pytest.raises(Began):
            demo.demo.main([str(folder)], standalone_mode=False)
        return True

    return call


@pytest.mark.parametrize(
    "name", ["model.pt", "world/test_ims.npy", "notes.txt", ".git/HEAD", "model.caan/manifest.json"]
)
def test_a_folder_of_the_user_s_is_refused_and_left_as_it_is(refused, tmp_path, name):
    (tmp_path / "demo" / name).parent.mkdir(parents=True)
    (tmp_path / "demo" / name).write_text("mine")
    first = name.split("/")[0]
    refused("demo", says=[f"demo holds {first} and was not written by the demo", "caan demo FOLDER"])


def test_a_file_in_the_folder_s_place(refused, tmp_path):
    (tmp_path / "demo").write_text("mine")
    refused("demo", says=["can't write demo", "name another"])


def test_a_new_folder_an_empty_one_and_its_own(drawn, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "demo", tmp_path / "empty"):
        assert drawn(folder)
        (folder / "model.pt").touch()
        (folder / "notes.txt").write_text("mine")
        assert drawn(folder) and tree(folder)["notes.txt"] == b"mine"


def test_a_folder_that_an_older_demo_finished(drawn, tmp_path):
    for name in ("model.pt", "report.html", "search.html", "explain.png"):
        (tmp_path / name).touch()
    for name in ("world", "model.caan", "gallery"):
        (tmp_path / name).mkdir()
    assert drawn(tmp_path)
