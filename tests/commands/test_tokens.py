"""--tokens: the commands that take captions take their tokens too."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest


@pytest.fixture
def gallery(run, tiny_folder, tiny_data, tmp_path):
    done = run("index", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "-o", tmp_path / "gallery")
    assert done.code == 0, done.err
    return tmp_path / "gallery"


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.jsonl"
    path.write_text('["w1", "w2"]\n["w3", "W4"]\n')
    return path


def test_a_search_uses_them_unchanged(run, gallery, tokens, tmp_path):
    (tmp_path / "captions.txt").write_text("w1 w2\nw3 unknown\n")
    by_tokens = run("search", gallery, "--tokens", tokens, "--json")
    by_captions = json.loads(run("search", gallery, "--captions", tmp_path / "captions.txt", "--json").out)
    found = json.loads(by_tokens.out)
    assert [entry["hits"] for entry in found] == [entry["hits"] for entry in by_captions]
    assert [entry["caption"] for entry in found] == ["w1 w2", "w3 W4"]
    assert found[1]["unknown_words"] == ["W4"]
    assert f"{tokens}, line 2: the vocabulary lacks 'W4'" in by_tokens.err


def test_a_search_with_the_tokens_of_standard_input(run, gallery, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"w1  w2\nzebra\n")))
    done = run("search", gallery, "--tokens", "-", "--json")
    assert done.code == 1
    assert [entry["caption"] for entry in json.loads(done.out)] == ["w1 w2", "zebra"]
    assert "standard input, line 2: no word of 'zebra' is in the model's vocabulary" in done.err


def test_a_gallery_of_captions(run, tiny_folder, tiny_data, tokens, tmp_path):
    (tmp_path / "captions.txt").write_text("w1 w2\nw3 unknown\n")
    bundle = tiny_folder / "model.caan"
    assert run("index", bundle, "--tokens", tokens, "-o", tmp_path / "a").code == 0
    assert run("index", bundle, tmp_path / "captions.txt", "-o", tmp_path / "b").code == 0
    command = ["--features", tiny_data / "test_ims.npy", "--item", 0, "--json"]
    assert run("search", tmp_path / "a", *command).out == run("search", tmp_path / "b", *command).out


def test_an_evaluation(run, tiny_folder, tiny_data, tmp_path):
    (tmp_path / "tokens.txt").write_bytes((tiny_data / "test_caps.txt").read_bytes())
    command = ["eval", tiny_folder / "model.caan", "--data", tiny_data, "--json", "--limit", 4]
    expected = run(*command)
    assert run(*command, "--tokens", tmp_path / "tokens.txt").out == expected.out
    upper = (tiny_data / "test_caps.txt").read_text().upper()
    (tmp_path / "tokens.txt").write_text(upper)
    assert run(*command, "--tokens", tmp_path / "tokens.txt").out != expected.out


def test_an_explanation(run, tiny_folder, tiny_data, tmp_path):
    np.save(tmp_path / "one.npy", np.load(tiny_data / "test_ims.npy")[:1])
    (tmp_path / "tokens.txt").write_text("w1 W2 w3\n")
    command = ["explain", tiny_folder / "model.caan", tmp_path / "one.npy", "--json"]
    explained = json.loads(run(*command, "--tokens", tmp_path / "tokens.txt").out)
    assert explained["words"] == ["<start>", "w1", "W2", "w3", "<end>"]
    assert explained["known"] == [True, True, False, True, True]


def test_bad_files_and_uses_are_refused(refused, tiny_folder, tiny_data, gallery, tmp_path):
    bundle, features = tiny_folder / "model.caan", tiny_data / "test_ims.npy"
    (tmp_path / "t.txt").write_text("w1\n\n")
    (tmp_path / "t.jsonl").write_text('["w1"]\n{"w2": 1}\n')
    refused("search", gallery, "--tokens", "t.jsonl", says=["t.jsonl, line 2 is not a JSON list of words"])
    refused("search", gallery, "--tokens", "none.txt", says=["can't read none.txt"])
    refused("search", gallery, "w1", "--tokens", "t.txt", says=["give exactly one of CAPTION"])
    refused("index", bundle, "--tokens", "t.txt", "-o", "g", says=["t.txt, line 2 is empty"])
    refused("index", bundle, features, "--tokens", "t.txt", "-o", "g", says=["exactly one of FEATURES and --tokens"])
    refused("index", bundle, "-o", "g", says=["exactly one of FEATURES and --tokens"])
    refused("eval", bundle, "--data", tiny_data, "--tokens", "t.jsonl", says=["t.jsonl, line 2"])
    (tmp_path / "two.txt").write_text("w1\nw2\n")
    refused("eval", bundle, "--data", tiny_data, "--tokens", "two.txt", says=["two.txt holds 2 captions, test of"])
    refused("explain", bundle, features, "--tokens", "two.txt", says=["two.txt holds 2 captions; explain one"])
    refused("explain", bundle, features, says=["exactly one of CAPTION and --tokens"])
