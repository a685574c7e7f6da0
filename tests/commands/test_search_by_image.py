"""`caan search --features`: images find their captions in a gallery of captions."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from caan.runtime import Gallery, Retriever

IDS = [f"c{n}" for n in range(9)]


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture
def features(tmp_path):
    """A file of three images with random features, and a file with one of them."""
    array = np.random.default_rng(3).standard_normal((3, 5, 12)).astype(np.float32)
    np.save(tmp_path / "many.npy", array)
    np.save(tmp_path / "one.npy", array[1])
    return array


@pytest.fixture
def captions(retriever, tmp_path):
    return Gallery.create(tmp_path / "captions", retriever, [f"w{n} w{2 * n}" for n in range(9)], ids=IDS)


def rows(hits):
    return [{"index": hit.index, "id": hit.id, "score": pytest.approx(hit.score, abs=1e-5)} for hit in hits]


def test_one_image_and_many(run, retriever, captions, features, tmp_path):
    expected = [retriever.search(image, captions, 4) for image in features]
    command = ["search", tmp_path / "captions", "-k", 4, "--json", "--features"]
    assert json.loads(run(*command, tmp_path / "one.npy").out) == rows(expected[1])
    assert json.loads(run(*command, tmp_path / "many.npy", "--item", 2).out) == rows(expected[2])
    result = json.loads(run(*command, tmp_path / "many.npy").out)
    assert result == [{"image": n, "hits": rows(hits)} for n, hits in enumerate(expected)]


def test_as_tables_and_as_a_file(run, retriever, captions, features, tmp_path):
    expected = [retriever.search(image, captions, 2) for image in features]
    done = run("search", tmp_path / "captions", "--features", tmp_path / "one.npy", "-k", 2)
    assert [line.split() for line in done.out.splitlines()] == [
        [str(rank), f"{hit.score:.4f}", hit.id] for rank, hit in enumerate(expected[1], 1)
    ]
    command = ["search", tmp_path / "captions", "--features", tmp_path / "many.npy", "-k", 2]
    done = run(*command, "--export", tmp_path / "hits.csv")
    assert [block.splitlines()[0] for block in done.out.split("\n\n")] == ["image 0", "image 1", "image 2"]
    with (tmp_path / "hits.csv").open() as file:
        written = [(row["query"], row["id"]) for row in csv.DictReader(file)]
    assert written == [(str(n), hit.id) for n, hits in enumerate(expected) for hit in hits]


def test_low_scores_are_left_out(run, retriever, captions, features, tmp_path):
    best, second = retriever.search(features[1], captions, 2)
    least = (best.score + second.score) / 2
    command = ["search", tmp_path / "captions", "--features", tmp_path / "one.npy", "--json", "--min-score", least]
    assert json.loads(run(*command).out) == rows([best])
    command = ["search", tmp_path / "captions", "--features", tmp_path / "one.npy", "--min-score", best.score + 1]
    assert run(*command).out == "  no hits\n"


def test_a_page_of_captions_of_which_one_finds_nothing(run, retriever, features, tmp_path):
    gallery = Gallery.create(tmp_path / "images", retriever, features, ids=["a.png", "b.png", "c.png"])
    texts = ["w1 w2", "w3"]
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts))
    best = sorted(retriever.search(text, gallery, 1)[0].score for text in texts)
    least = sum(best) / 2  # one caption has a hit above this, the other none
    more = ["--html", tmp_path / "page.html", "--pictures", tmp_path, "--min-score", least]
    done = run("search", tmp_path / "images", "--captions", tmp_path / "texts.txt", *more)
    assert done.code == 0 and "no hits" in done.out and (tmp_path / "page.html").exists()


def test_searches_by_image_that_can_not_be(refused, retriever, captions, features, tmp_path):
    Gallery.create(tmp_path / "images", retriever, features)
    np.save(tmp_path / "integers.npy", np.ones((3, 5, 12), np.int64))
    np.save(tmp_path / "narrow.npy", np.ones((5, 11), np.float32))
    one = ["--features", "one.npy"]
    refused("search", "images", *one, says=["images holds images, and images search among captions", "CAPTIONS.txt"])
    refused("search", "captions", "w1", says=["captions holds captions", "--features FILE.npy"])
    refused("search", "captions", "w1", *one, says=["give exactly one of"])
    refused("search", "captions", "--item", 1, "w1", says=["--item picks an image of --features"])
    refused("search", "captions", "--features", "many.npy", "--item", 3, says=["3 images, so --item is 0 to 2, not 3"])
    refused("search", "captions", "--features", "integers.npy", says=["int64 (3, 5, 12); expected floats (regions, F)"])
    refused("search", "captions", "--features", "narrow.npy", says=["dimension 11, the model was trained on 12"])
    refused("search", "captions", "--features", "none.npy", says=["can't read none.npy"])
    refused("search", "captions", *one, "--html", "page.html", says=["--html is for captions"])
    refused("search", "captions", *one, "--min-score", "high", says=["--min-score"])
