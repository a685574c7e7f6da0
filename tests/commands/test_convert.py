"""SCAN-family checkpoints in the commands: converted once, or exported with the converted file beside the bundle."""

import json
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch

from caan.accuracy.reference_scores import PYTORCH, checkpoint_of, reference_scores
from caan.accuracy.workload import data_workload
from caan.bundle import open_bundle
from caan.cli import caan
from caan.errors import CheckpointError, VocabularyNeeded
from caan.model.checkpoint import ScanOptions, load_checkpoint, save_checkpoint
from tests.conftest import exporter, scan_parts_of, take_graphs_of, write_tiny_data

CONVERT = "caan convert scan.pth.tar --vocab VOCAB.json -o model.pt"


@pytest.fixture(scope="module")
def scan_files(make_once, tiny_folder, vocabulary):
    """`scan.pth.tar` with its vocabulary and data, and `traced.caan`, for its graphs."""

    def make(folder):
        export_checkpoint = exporter()
        write_scan(folder, load_checkpoint(tiny_folder / "model.pt").model.state_dict())
        vocabulary.save(folder / "vocab.json")
        write_tiny_data(folder / "data")
        loaded = load_checkpoint(folder / "scan.pth.tar", ScanOptions(folder / "vocab.json"))
        export_checkpoint(loaded, folder / "scan.pth.tar", folder / "traced.caan")

    return make_once("scan", make, kept=True)


@pytest.fixture(scope="module")
def traced(scan_files):
    with pytest.MonkeyPatch.context() as patch:
        take_graphs_of(scan_files / "traced.caan", patch)
        yield


@pytest.fixture(scope="module")
def exported(scan_files, traced, tmp_path_factory):
    """The same files, and the export `with.caan`, with `--save-checkpoint model.pt`."""
    folder = tmp_path_factory.mktemp("exported") / "files"
    shutil.copytree(scan_files, folder)
    arguments = ["export", folder / "scan.pth.tar", "--vocab", folder / "vocab.json", "--data", folder / "data"]
    arguments += ["-o", folder / "with.caan", "--save-checkpoint", folder / "model.pt"]
    caan.main([str(argument) for argument in arguments], standalone_mode=False)
    return folder


@pytest.fixture
def here(exported, tmp_path, monkeypatch):
    """A copy of `exported`, the current folder."""
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_scan(folder, state, name="scan.pth.tar", **options):
    opt = Namespace(**{"no_imgnorm": False, "no_txtnorm": True, "lambda_softmax": 9.0, "vocab_size": 24} | options)
    content = {"epoch": 3, "model": scan_parts_of(state), "best_rsum": 321.5, "opt": opt, "Eiters": 9}
    torch.save(content, folder / name)


def lines(outcome):
    """Each setting's line, by its name."""
    return {line.split("  ")[0]: " ".join(line.split()) for line in outcome.out.splitlines() if "  " in line}


def test_convert_writes_a_checkpoint_that_every_command_takes(run, here):
    done = run("convert", "scan.pth.tar", "--vocab", "vocab.json", "-o", "new.pt")
    assert done.code == 0 and done.out.startswith("new.pt: converted from scan.pth.tar\n")
    shown = lines(done)
    assert shown["λ"].startswith("λ default 1: the file names none; its lambda_softmax is 9")
    assert shown["image norm"] == "image norm file on: opt.no_imgnorm is false"
    assert shown["text norm"] == "text norm file off: opt.no_txtnorm is true"
    assert shown["vocabulary"].startswith("vocabulary option 24 words: vocab.json")
    assert shown["rsum"] == "rsum file 321.50 says the file"
    direct = load_checkpoint(here / "scan.pth.tar", ScanOptions(here / "vocab.json"))
    converted = load_checkpoint(here / "new.pt")
    assert converted.digest() == direct.digest() and converted.settings == direct.settings
    assert run("eval", "new.pt", "--backend", "torch", "--data", "data").code == 0


def test_convert_and_an_export_write_the_same_file(run, here):
    run("convert", "scan.pth.tar", "--vocab", "vocab.json", "-o", "new.pt")
    assert (here / "new.pt").read_bytes() == (here / "model.pt").read_bytes()


def test_the_exports_gate_ran_on_the_loaded_checkpoint(here):
    manifest = open_bundle(here / "with.caan").manifest
    (record,) = [check for check in manifest["precisions"]["fp32"]["checks"] if "metrics" in check]
    assert record["passed"] and record["what"] == "onnxruntime against PyTorch FP32 on a data set"
    assert record["parity"]["max_abs"] <= 1e-5


def test_an_export_takes_the_captions_tokens(run, here):
    (here / "tokens.txt").write_text((here / "data" / "test_caps.txt").read_text().upper())
    command = ["export", "model.pt", "--tokens", "tokens.txt", "-o", "tokens.caan"]
    done = run(*command, "--data", "data")
    assert done.code == 0 and lines(done)["unknown words"].startswith("unknown words data 100.00 %")
    assert "--tokens holds the captions of --data DIR" in run(*command).err


def test_a_bundle_keeps_its_settings(run, here):
    text = run("inspect", "with.caan").out
    assert "1: the file names none; its lambda_softmax is 9" in text
    assert "off: opt.no_txtnorm is true" in text and "one row per image, 5 captions each: data test" in text
    assert "0.00 %: 0 of" in text and "321.50 says the file; measured" in text
    config = json.loads((here / "with.caan" / "manifest.json").read_text())["config"]
    assert (config["normalize_images"], config["normalize_texts"], "normalize" in config) == (True, False, False)


def test_inspect_shows_a_checkpoint_with_and_without_its_vocabulary(run, here):
    assert "24 words" in run("inspect", "model.pt").out
    done = run("inspect", "scan.pth.tar")
    assert done.code == 0 and "SCAN-family" in done.out and "321.50" in done.out
    assert CONVERT in " ".join(done.out.split())
    whole = json.loads(run("inspect", "scan.pth.tar", "--vocab", "vocab.json", "--json").out)
    assert whole["content_sha256"] == load_checkpoint(here / "model.pt").digest()


def test_a_bundle_knows_its_checkpoint_by_content(here):
    bundle, workload = open_bundle(here / "with.caan"), data_workload(here / "data", "test")
    assert checkpoint_of(bundle, None) == here / "model.pt"
    # Converted again, with other bytes.
    loaded = load_checkpoint(here / "model.pt")
    save_checkpoint(here / "again.pt", loaded.model, loaded.vocabulary, {"note": "converted again"})
    assert checkpoint_of(bundle, here / "again.pt") == here / "again.pt"
    scores, name = reference_scores(workload, bundle, here / "again.pt")
    assert name == PYTORCH and np.isfinite(scores).all()
    with torch.no_grad():
        loaded.model.scorer.K[0, 0] += 1e-3
    save_checkpoint(here / "other.pt", loaded.model, loaded.vocabulary)
    with pytest.raises(CheckpointError, match=r"is not what with\.caan was exported from"):
        checkpoint_of(bundle, here / "other.pt")
    with pytest.raises(VocabularyNeeded, match=r"caan convert .*scan\.pth\.tar --vocab VOCAB\.json -o model\.pt"):
        reference_scores(workload, bundle, here / "scan.pth.tar")


def test_a_bundle_of_the_scan_file_alone_takes_the_converted_one(here, run, traced):
    """Exported without --save-checkpoint, its manifest names a file that holds no vocabulary."""
    assert run("export", "scan.pth.tar", "--vocab", "vocab.json", "-o", "without.caan").code == 0
    bundle, workload = open_bundle(here / "without.caan"), data_workload(here / "data", "test")
    assert checkpoint_of(bundle, here / "model.pt") == here / "model.pt"
    with pytest.raises(VocabularyNeeded):
        checkpoint_of(bundle, None)
    said = []
    _, name = reference_scores(workload, bundle, None, said.append)
    assert name != PYTORCH and "caan convert" in said[0]


@pytest.mark.parametrize("command", [["eval", "--backend", "torch", "--data", "data"], ["export"]])
def test_without_its_vocabulary_every_command_says_how_to_convert(here, refused, command):
    refused(command[0], "scan.pth.tar", *command[1:], says=[CONVERT])


def test_convert_replaces_nothing_unasked(here, refused, run):
    vocab = ["--vocab", "vocab.json"]
    refused("convert", "scan.pth.tar", *vocab, says=["model.pt exists already", "--overwrite"])
    refused("convert", "scan.pth.tar", *vocab, "-o", "scan.pth.tar", "--overwrite", says=["is the checkpoint itself"])
    refused(
        "convert", "scan.pth.tar", "--vocab", "none.json", "-o", "a.pt", says=["can't read the vocabulary none.json"]
    )
    refused("convert", "none.pth.tar", *vocab, "-o", "a.pt", says=["no checkpoint at none.pth.tar"])
    saved = ["--save-checkpoint", "scan.pth.tar", "--overwrite", "-o", "a.caan"]
    refused("export", "scan.pth.tar", *vocab, *saved, says=["is the checkpoint itself"])
    assert run("convert", "scan.pth.tar", *vocab, "--overwrite").code == 0


def test_options_of_the_scan_family_for_another_checkpoint_are_not_silent(run, here):
    done = run("convert", "model.pt", "--attention-scale", "9", "-o", "new.pt")
    assert done.code == 0 and "--attention-scale is for SCAN-family checkpoints" in done.err
    assert load_checkpoint(here / "new.pt").model.config.attention_scale == 1.0


def test_a_mismatch_that_was_allowed_stays_allowed(run, here, refused):
    state = load_checkpoint(here / "model.pt").model.state_dict()
    rows = torch.cat([state["text_encoder.embedding.weight"], torch.ones(1, 6)])
    write_scan(here, state | {"text_encoder.embedding.weight": rows}, "larger.pth.tar", vocab_size=25)
    arguments = ["convert", "larger.pth.tar", "--vocab", "vocab.json", "-o", "new.pt"]
    refused(*arguments, says=["the vocabulary has 24 words, the embedding 25 rows", "--allow-vocab-mismatch"])
    assert run(*arguments, "--allow-vocab-mismatch").code == 0
    assert run("eval", "new.pt", "--backend", "torch", "--data", "data").code == 0
