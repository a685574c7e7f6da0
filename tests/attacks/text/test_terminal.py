"""Ids, captions, file names and manifests with terminal escapes: every command escapes them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caan.bundle import write_manifest

# Sets the clipboard, clears the screen, colours, reverses the direction, forges a line, hides earlier text.
HOSTILE = ["\x1b]52;c;cm0=\x07", "\x1b[2J", "\x9b31m", "\u202egpj.exe", "a\nError: b", "x\r\x08y", "\u2066z", "\x7f\0"]
OBEYED = set(map(chr, (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)))) - {"\n"}


def check(done, code=0):
    assert done.code == code, done
    assert not OBEYED & set(done.out + done.err)
    return done


@pytest.fixture
def gallery(tiny_folder, tmp_path):
    """A gallery whose ids are hostile."""
    from caan.data.scan import open_features
    from caan.runtime import Retriever
    from caan.runtime.index import Images, index_items

    retriever = Retriever.open(tiny_folder / "model.caan")
    features = open_features(tiny_folder / "data" / "test_ims.npy")
    index_items(retriever, tiny_folder / "model.caan", Images(retriever, features), tmp_path / "gallery", HOSTILE[:6])
    return tmp_path / "gallery"


def test_search_shows_ids_and_captions(run, gallery, tmp_path):
    done = check(run("search", gallery, "w1"))
    assert len(done.out.splitlines()) == 6 and "\\x1b]52;c;cm0=\\x07" in done.out and "a\\nError: b" in done.out
    (tmp_path / "caps.txt").write_text("".join(f"w1 {text.replace(chr(10), '')}\n" for text in ("\x1b[2J", "\u202ex")))
    done = check(run("search", gallery, "--captions", tmp_path / "caps.txt"))
    assert "w1 \\x1b[2J" in done.out and "the vocabulary lacks '\\x1b[2j'" in done.err


@pytest.mark.parametrize("caption", ["\x1b]52;c;cm0=\x07", "\u202ezebra", "\x9b2J"])
def test_an_error_that_quotes_a_caption(run, gallery, caption):
    done = check(run("search", gallery, caption), code=2)
    assert "no word of" in done.err


def test_json_escapes_by_itself(run, gallery):
    done = check(run("search", gallery, "w1", "--json"))
    assert done.out.isascii() and {hit["id"] for hit in json.loads(done.out)} == set(HOSTILE[:6])


def test_errors_that_quote_an_id(run, gallery):
    for name in HOSTILE[:6]:
        done = check(run("delete", gallery, f"{name}?"), code=2)
        assert "nothing was deleted" in done.err


def test_explain_shows_words(run, tiny_folder, tiny_data):
    command = ["explain", tiny_folder / "model.caan", tiny_data / "test_ims.npy", "w1 \x1b[2J \u202ex", "--item", 0]
    done = check(run(*command))
    assert "\\x1b[2j (unknown)" in done.out
    assert json.loads(check(run(*command, "--json")).out)["words"][2] == "\x1b[2j"


def test_inspect_shows_a_manifest(run, tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    manifest["tokenizer"] = "\x1b]52;c;cm0=\x07"
    manifest["checkpoint"]["file"] = "\u202etp.ledom"
    manifest["precisions"]["\x1b[2J"] = {"checks": [], "status": "\x9b31m"}
    write_manifest(tiny_bundle, {key: value for key, value in manifest.items() if key != "files"})
    out = run("inspect", tiny_bundle)
    assert not OBEYED & set(out.out + out.err)


def test_file_names_in_errors(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("\x1b]52;c;cm0=\x07", "\u202egpj", "a\x1b[2Jb"):
        for command in (["search", name, "w1"], ["inspect", name], ["export", name], ["eval", name, "--data", name]):
            check(run(*command), code=2)


def test_wrong_usage(run):
    for command in (
        ["\x1b[2J"],
        ["search", "--\x1b[2J"],
        ["search", "g", "c", "-k", "\x1b]52;\x07"],
        ["train", "a", "\x9b"],
    ):
        check(run(*command), code=2)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_json_is_json_whatever_the_terminal_writes(gallery, encoding):
    command = [Path(sys.executable).with_name("caan"), "search", gallery, "w1 é猫", "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300)
    assert done.returncode == 0 and done.stdout.isascii()
    assert {hit["id"] for hit in json.loads(done.stdout)} == set(HOSTILE[:6])
