"""Scores as files that other programs read."""

import csv

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
    assert [float(row[2]) for row in rows[1:]] == scores.ravel().tolist()
    features = np.load(data / "test_ims.npy")
    captions = (data / "test_caps.txt").read_text().splitlines()
    retriever = Retriever.open(bundle, "onnxruntime")
    whole = retriever.score_matrix(retriever.encode_images(features), captions)
    chosen = [0, 2, 5]
    np.testing.assert_allclose(scores, whole[chosen][:, [5 * i + j for i in chosen for j in range(5)]], atol=1e-6)


def test_another_suffix_is_refused_before_the_work(refused, tiny_folder):
    command = ("eval", tiny_folder / "model.caan", "--data", tiny_folder / "data", "--export", "scores.txt")
    refused(*command, says=["scores.txt", ".npy", ".csv"])
