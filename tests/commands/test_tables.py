"""Scores as files for other programs."""

import csv
import json

import numpy as np

from caan.runtime import Retriever


def test_eval_exports_the_scores(run, tiny_folder, tmp_path):
    bundle, data = tiny_folder / "model.caan", tiny_folder / "data"
    array, table = tmp_path / "scores.npy", tmp_path / "scores.csv"
    for file in (array, table):
        done = run("eval", bundle, "--data", data, "--backend", "onnxruntime", "--limit", 3, "--export", file)
        assert done.code == 0, done.err
    scores = np.load(array)
    with table.open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["image", "caption", "score"] and len(rows) == 1 + scores.size
    assert np.array_equal(np.array([row[2] for row in rows[1:]], np.float32), scores.ravel())
    features = np.load(data / "test_ims.npy")
    captions = (data / "test_caps.txt").read_text().splitlines()
    retriever = Retriever.open(bundle, "onnxruntime")
    whole = retriever.score_matrix(retriever.encode_images(features), captions)
    chosen = [0, 2, 5]
    np.testing.assert_allclose(scores, whole[chosen][:, [5 * i + j for i in chosen for j in range(5)]], atol=1e-6)


def test_another_suffix_is_refused_before_the_work(refused, tiny_folder):
    command = ("eval", tiny_folder / "model.caan", "--data", tiny_folder / "data", "--export", "scores.txt")
    refused(*command, says=["scores.txt", ".npy", ".csv"])


def test_search_exports_the_hits(run, tiny_folder, tmp_path):
    features, gallery = tiny_folder / "data" / "test_ims.npy", tmp_path / "gallery"
    (tmp_path / "ids.txt").write_text("a,b\n" + "".join(f"item {n}\n" for n in range(1, 6)))
    done = run("index", tiny_folder / "model.caan", features, "--ids", tmp_path / "ids.txt", "-o", gallery)
    assert done.code == 0, done.err
    (tmp_path / "captions.txt").write_text("w1 w2\nnobody knows\nw3\n")
    array, table = tmp_path / "hits.npy", tmp_path / "hits.csv"
    for file in (array, table):
        done = run("search", gallery, "--captions", tmp_path / "captions.txt", "-k", 2, "--export", file, "--json")
        assert done.code == 1  # the second line has no known word
    entries = json.loads(done.out)
    expected = [
        (number, rank, hit["index"], np.float32(hit["score"]))
        for number, entry in enumerate(entries)
        for rank, hit in enumerate(entry["hits"], 1)
    ]
    assert np.load(array).tolist() == [(*row[:3], float(row[3])) for row in expected]
    with table.open(newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["query", "rank", "index", "id", "score"]
    assert [(int(r[0]), int(r[1]), int(r[2]), np.float32(r[4])) for r in rows] == expected
    names = ["a,b", *(f"item {n}" for n in range(1, 6))]
    assert [r[3] for r in rows] == [names[row[2]] for row in expected]
