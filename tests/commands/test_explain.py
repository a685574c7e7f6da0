"""`caan explain`: tables, JSON and a PNG, and errors for invalid input."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from caan.pictures.regions import grid_boxes
from caan.runtime import Retriever


@pytest.fixture
def features(tiny_data):
    """Six images of five regions."""
    return tiny_data / "test_ims.npy"


@pytest.fixture
def ids(tmp_path):
    (tmp_path / "ids.txt").write_text("a.jpg\nb.jpg\nc d.jpg\n3\nsame\nsame\n")
    return tmp_path / "ids.txt"


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (60, 40), (200, 90, 40)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.fixture
def boxes(tmp_path):
    np.save(tmp_path / "boxes.npy", np.tile(grid_boxes(1, 5), (6, 1, 1)))
    return tmp_path / "boxes.npy"


@pytest.fixture
def explain(run, tiny_folder, features):
    """explain(caption, *options): the command with the tiny bundle and the six images."""
    return lambda caption, *options: run("explain", tiny_folder / "model.caan", features, caption, *options)


@pytest.fixture
def refuses(refused, tiny_folder, features):
    """refuses(*options, says=…): assert that the command rejects these options."""
    return lambda *options, caption="w1 w2", **expected: refused(
        "explain", tiny_folder / "model.caan", features, caption, *options, **expected
    )


def test_tables_of_words_and_regions(explain, boxes):
    done = explain("w1 zebra w2", "--item", 2, "--boxes", boxes)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("score ") and "looks at region" in lines[2]
    assert [line.split()[0] for line in lines[4:9]] == ["<start>", "w1", "zebra", "w2", "<end>"]
    assert "zebra (unknown)" in done.out
    assert "x0 y0 x1 y1" in done.out and "0.00 0.00 0.20 1.00" in done.out
    weights = [float(line.split()[1]) for line in lines[-5:]]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1, abs=0.01)


def test_json_is_the_runtime_s_explanation(explain, tiny_folder, features, ids):
    content = json.loads(explain("w1 w2", "--item", "b.jpg", "--ids", ids, "--grid", "1x5", "--json").out)
    expected = Retriever.open(tiny_folder / "model.caan").explain(np.load(features)[1], "w1 w2")
    assert (content["index"], content["id"], content["words"]) == (1, "b.jpg", expected.words)
    for name in ("H", "Hu", "Hv", "av", "au"):
        assert np.allclose(content[name], getattr(expected, name))
    assert np.allclose(content["boxes"], grid_boxes(1, 5))


@pytest.mark.parametrize(("item", "index"), [("0", 0), ("5", 5), ("a.jpg", 0), ("c d.jpg", 2), ("3", 3), ("04", 4)])
def test_an_item_is_an_id_or_a_number(explain, ids, item, index):
    assert json.loads(explain("w1", "--item", item, "--ids", ids, "--json").out)["index"] == index


def test_the_only_image_needs_no_item(run, tiny_folder, tmp_path):
    np.save(tmp_path / "one.npy", np.ones((1, 5, 12), np.float16))
    done = run("explain", tiny_folder / "model.caan", tmp_path / "one.npy", "w1", "--json")
    assert json.loads(done.out)["index"] == 0 and json.loads(done.out)["boxes"] is None


@pytest.mark.parametrize("placed", [["--grid", "5x1"], ["--boxes"], []])
def test_a_picture_is_drawn(explain, tmp_path, picture, boxes, placed):
    options = [*placed, boxes] if placed == ["--boxes"] else placed
    done = explain("w1 w2 w3", "--item", 0, "--picture", picture, "-o", tmp_path / "new" / "found.png", *options)
    assert done.code == 0 and done.out.startswith(f"{tmp_path / 'new' / 'found.png'}: score ")
    drawn = Image.open(tmp_path / "new" / "found.png")
    assert drawn.format == "PNG" and drawn.width == 1080 and "Software" not in drawn.info


def test_drawing_and_json_go_together(explain, tmp_path):
    done = explain("w1", "--item", 0, "-o", tmp_path / "found.png", "--json")
    assert json.loads(done.out)["index"] == 0 and (tmp_path / "found.png").is_file()


def test_an_existing_file_is_replaced_only_when_told(explain, refuses, picture):
    before = picture.read_bytes()
    refuses("--item", 0, "-o", picture, says=["picture.png exists already", "--overwrite"])
    assert explain("w1", "--item", 0, "--picture", picture, "-o", picture, "--overwrite").code == 0
    assert picture.read_bytes() != before and Image.open(picture).width == 1080


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ["there are 6 images", "--item 0 to 5"]),
        (["--item", "6"], ["--item '6' is not a number from 0 to 5", "--ids FILE"]),
        (["--item", "-1"], ["--item '-1' is not"]),
        (["--item", "b.jpg"], ["--item 'b.jpg'", "ids need --ids FILE"]),
        (["--item", "0", "--grid", "2x2"], ["--grid 2x2 has 4 cells", "5 regions"]),
        (["--item", "0", "--grid", "five"], ["'five' is not ROWSxCOLUMNS"]),
        (["--item", "0", "--grid", "0x5"], ["'0x5' is not ROWSxCOLUMNS"]),
        (["--item", "0", "--grid", "1x5", "--boxes", "x.npy"], ["--boxes and --grid both", "one of them"]),
        (["--item", "0", "--picture", "x.png"], ["add -o FILE.png"]),
        (["--item", "0", "--boxes", "nowhere.npy"], ["can't read nowhere.npy"]),
        (["--item", "0", "-o", "found.jpg"], ["found.jpg does not end in .png"]),
        (["--item", "0", "-o", "found.png", "--picture", "nowhere.jpg"], ["no picture at nowhere.jpg"]),
        (["--item", "0", "--ids", "nowhere.txt"], ["can't read nowhere.txt"]),
    ],
)
def test_wrong_options(refuses, options, says):
    refuses(*options, says=says)


def test_ids_that_don_t_help(refuses, ids):
    refuses("--item", "z.jpg", "--ids", ids, says=["'z.jpg' is not an id of --ids, nor a number from 0 to 5"])
    refuses("--item", "same", "--ids", ids, says=["'same' is the id of 2 images", "number instead, as 4"])
    ids.write_text("a.jpg\n")
    refuses("--item", "a.jpg", "--ids", ids, says=["names 1 images", "holds 6"])


def test_boxes_of_other_features(refuses, tmp_path):
    np.save(tmp_path / "boxes.npy", np.tile(grid_boxes(2, 2), (6, 1, 1)))
    says = ["holds (6, 4, 4)", "need boxes (6, 5, 4)"]
    refuses("--item", 0, "--boxes", tmp_path / "boxes.npy", says=says)


def test_what_is_no_picture(refuses, tmp_path, features):
    refuses("--item", 0, "--picture", features, "-o", "found.png", says=["can't be read as a picture", "PNG or JPEG"])


def test_a_caption_without_a_known_word(refuses):
    refuses("--item", 0, caption="zebra quagga", says=["no word of 'zebra quagga'"])
    refuses("--item", 0, caption=" ", says=["the caption is empty"])


@pytest.mark.parametrize("missing", ["matplotlib", "PIL"])
def test_without_the_extra_the_message_names_it_and_tables_still_work(explain, refuses, monkeypatch, missing):
    for name in [name for name in sys.modules if name.split(".")[0] == missing or name == "caan.pictures.attention"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    refuses("--item", 0, "-o", "found.png", says=["drawing an explanation needs", "[plot]"], code=4)
    assert explain("w1", "--item", 0, "--grid", "1x5").code == 0


def test_lengths_leave_padding_out(run, tiny_folder, tiny_data, tmp_path):
    features = np.load(tiny_data / "test_ims.npy")
    np.save(tmp_path / "lengths.npy", np.array([3, 5, 5, 5, 5, 5]))
    command = ["explain", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "w1 w2", "--item", 0, "--json"]
    result = json.loads(run(*command, "--lengths", tmp_path / "lengths.npy").out)
    np.save(tmp_path / "short.npy", features[:1, :3])
    alone = json.loads(run(*command[:2], tmp_path / "short.npy", *command[3:]).out)
    assert len(result["av"]) == 3 and result["score"] == pytest.approx(alone["score"], abs=1e-6)
