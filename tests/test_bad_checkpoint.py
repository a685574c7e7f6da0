"""Checkpoints that can't be exported: `caan export`'s message; it leaves no files and runs no code from them."""

import os
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.errors import CheckpointError
from caan.model.checkpoint import load_checkpoint


class Attack:
    """Unpickled freely, it would make the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def content(tiny_folder) -> dict:
    """The tiny checkpoint's dictionary, for a test to change."""
    return torch.load(tiny_folder / "model.pt", weights_only=True)


@pytest.fixture
def scan_content(content) -> dict:
    """The same parameters as a SCAN-family checkpoint's dictionary."""
    state = content["state_dict"]
    image = {"fc.weight": state["image_encoder.fc.weight"], "fc.bias": state["image_encoder.fc.bias"]}
    text = {"embed.weight": state["text_encoder.embedding.weight"]}
    text |= {name.replace("text_encoder.gru.", "rnn."): state[name] for name in state if ".gru." in name}
    scorer = {name.removeprefix("scorer."): state[name] for name in state if name.startswith("scorer.")}
    return {"epoch": 3, "model": [image, text, scorer], "best_rsum": 1.0, "opt": Namespace(), "Eiters": 9}


@pytest.fixture
def rejected(refused, tmp_path):
    """rejected(content, says=…): `caan export` of a checkpoint with this content is refused."""

    def check(content, *options, says):
        torch.save(content, tmp_path / "model.pt")
        return refused("export", "model.pt", *options, says=["model.pt", *says])

    return check


@pytest.fixture
def rejected_scan(refused, scan_content, vocabulary, tmp_path):
    """rejected_scan(*options, says=…): `caan export` of `scan_content` with its vocabulary is refused."""

    def check(*options, says):
        torch.save(scan_content, tmp_path / "model.pt")
        vocabulary.save(tmp_path / "vocab.json")
        return refused("export", "model.pt", "--vocab", "vocab.json", *options, says=says)

    return check


def test_a_missing_file(refused):
    refused("export", "model.pt", says=["no checkpoint at model.pt", "name the model.pt"])


@pytest.mark.parametrize("content", [b"epoch,rsum\n1,200\n", b"\x80", b"\x00" * 100, b"PK\x03\x04 no archive"])
def test_a_file_that_is_not_a_checkpoint(refused, tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    refused("export", "model.pt", says=["model.pt"])


def test_an_empty_file(refused, tmp_path):
    (tmp_path / "model.pt").touch()
    refused("export", "model.pt", says=["model.pt is empty", "copy it again"])


def test_the_installed_command_says_it_in_one_line_without_a_traceback(tmp_path):
    (tmp_path / "model.pt").write_text("no checkpoint")
    command = [Path(sys.executable).with_name("caan-export"), "model.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: model.pt can't be loaded: it is damaged or not a PyTorch checkpoint")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_a_bundle_in_a_checkpoints_place(refused, tiny_bundle):
    refused("export", tiny_bundle, "-o", "new.caan", says=["model.caan is a folder", "name the model.pt"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_raw_pickle_is_never_executed(refused, tmp_path, protocol):
    attack = {"format": "caan-checkpoint", "metrics": Attack(tmp_path / "marker")}
    (tmp_path / "model.pt").write_bytes(pickle.dumps(attack, protocol))
    refused("export", "model.pt", says=["model.pt can't be loaded"])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_named_and_never_executed(refused, tmp_path, content, zipped):
    content["metrics"] = Attack(tmp_path / "marker")
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    refused("export", "model.pt", says=["model.pt", "holds code", "system", "never executed"])
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("part", [0.01, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file(refused, tmp_path, content, part, zipped):
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: int(len(whole) * part)])
    refused("export", "model.pt", says=["model.pt"])


def test_one_flipped_bit_in_a_weight(refused, tmp_path, tiny_folder, content):
    damaged = bytearray((tiny_folder / "model.pt").read_bytes())
    position = damaged.find(content["state_dict"]["scorer.K"].numpy().tobytes())
    damaged[position + 40] ^= 1
    (tmp_path / "model.pt").write_bytes(damaged)
    refused("export", "model.pt", says=["model.pt is corrupted", "checksum", "copy it again"])


def test_a_damaged_name_inside_the_archive(refused, tmp_path, tiny_folder):
    damaged = bytearray((tiny_folder / "model.pt").read_bytes())
    damaged[damaged.find(b"data.pkl")] ^= 0x80  # no longer UTF-8, which zipfile meets with a UnicodeDecodeError
    (tmp_path / "model.pt").write_bytes(damaged)
    refused("export", "model.pt", says=["model.pt is truncated or corrupted", "copy it again"])


def test_a_tensor_that_is_marked_as_a_folder(refused, tiny_folder, tmp_path):
    """PyTorch would leave its memory uninitialized."""
    damaged = bytearray((tiny_folder / "model.pt").read_bytes())
    entry = damaged.rfind(b"PK\x01\x02", 0, damaged.rfind(b"/data/12"))
    damaged[entry + 38] ^= 0x10  # the external attributes in the central directory
    (tmp_path / "model.pt").write_bytes(damaged)
    refused("export", "model.pt", says=["model.pt is corrupted", "data/12 is marked as a folder", "copy it again"])


@settings(max_examples=60)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_found_or_changes_no_weight(tiny_folder, tmp_path, position, bit):
    whole = (tiny_folder / "model.pt").read_bytes()
    damaged = bytearray(whole)
    damaged[int(position * len(whole))] ^= 1 << bit
    (tmp_path / "model.pt").write_bytes(damaged)
    expected = load_checkpoint(tiny_folder / "model.pt").model.state_dict()
    try:
        found = load_checkpoint(tmp_path / "model.pt").model.state_dict()
    except CheckpointError as error:
        assert "model.pt" in str(error)
    else:
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_all_that_does_not_fit_is_named_at_once(rejected, content):
    state = content["state_dict"]
    del state["scorer.K"], state["scorer.w_u"]
    state["scorer.Q7"] = state["old.name"] = torch.ones(2)
    state["scorer.Q1"] = state["scorer.Q1"].T
    state["image_encoder.fc.bias"] = torch.ones(3)
    says = ["missing: scorer.K, scorer.w_u", "unexpected: old.name, scorer.Q7", "mis-shaped:"]
    rejected(
        content, says=[*says, "image_encoder.fc.bias is (3,), expected (10,)", "scorer.Q1 is (7, 10), expected (10, 7)"]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_a_number_is_named(rejected, content, value):
    content["state_dict"]["scorer.Q5"][2, 3] = value
    rejected(content, says=["scorer.Q5", "NaN or infinity", "export an earlier checkpoint"])


def test_a_parameter_that_is_not_a_tensor_is_named(rejected, content):
    content["state_dict"]["scorer.K"] = "a string"
    rejected(content, says=["mis-shaped: scorer.K"])


def test_a_parameter_whose_name_is_not_text(rejected, content):
    content["state_dict"][7] = torch.ones(1)
    rejected(content, says=["unexpected: 7"])


@pytest.mark.parametrize("key", ["config", "state_dict", "vocabulary", "tokenizer"])
def test_a_checkpoint_that_lacks_a_part(rejected, content, key):
    del content[key]
    rejected(content, says=["incomplete caan-checkpoint", f"no '{key}'", "save it again"])


@pytest.mark.parametrize("key", ["config", "state_dict", "vocabulary", "tokenizer"])
@pytest.mark.parametrize("value", [None, 5, "text", [1, 2], {}])
def test_a_checkpoint_with_a_part_of_the_wrong_kind(rejected, content, key, value):
    content[key] = value
    rejected(content, says=[])


@pytest.mark.parametrize("key", ["region_dim", "embed_dim", "word_dim", "attention_dim", "vocab_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "10", None, True, 10**12])
def test_a_config_with_an_impossible_size(rejected, content, key, value):
    content["config"][key] = value
    rejected(content, says=[])


@pytest.mark.parametrize("value", ["4", None, float("nan"), float("inf"), [1.0]])
def test_a_config_with_an_impossible_attention_scale(rejected, content, value):
    content["config"]["attention_scale"] = value
    rejected(content, says=["attention_scale", "expected a number"])


def test_a_newer_format_version(rejected, content):
    content["version"] = 3
    rejected(content, says=["format version 3", "reads up to 2", "update caan"])


def test_a_vocabulary_larger_than_the_embedding(rejected, content):
    content["vocabulary"]["extra"] = 24
    rejected(content, says=["25 words, the embedding 24 rows", "--vocab"])


@pytest.mark.parametrize("content", [{"weights": 1}, {"model": {"K": 1}}, {}])
def test_a_dictionary_of_neither_family(rejected, content):
    rejected(content, says=["neither a caan-checkpoint nor a SCAN-family checkpoint"])


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), "text"])
def test_a_file_without_a_dictionary(rejected, content):
    rejected(content, says=["not a checkpoint dictionary"])


def test_a_scan_checkpoint_without_a_vocabulary(rejected, scan_content):
    rejected(scan_content, says=["SCAN-family checkpoint", "holds no vocabulary", "--vocab VOCAB.json"])


@pytest.mark.parametrize("text", [None, "", "not JSON", "[1]", "{}", '{"dog": "x"}', '{"word2idx": []}', "[" * 100_000])
def test_a_scan_checkpoint_with_a_bad_vocabulary(refused, scan_content, tmp_path, text):
    torch.save(scan_content, tmp_path / "model.pt")
    if text is not None:
        (tmp_path / "vocab.json").write_text(text)
    refused("export", "model.pt", "--vocab", "vocab.json", says=["vocab.json"])


def test_a_scan_checkpoint_with_an_unknown_tokenizer(rejected_scan):
    rejected_scan("--tokenizer", "bert", says=["unknown tokenizer 'bert'", "whitespace, word-punct"])


def test_a_scan_checkpoint_that_lacks_parameters(rejected_scan, scan_content):
    scan_content["model"][2]["kernel"] = scan_content["model"][2].pop("K")
    del scan_content["model"][1]["embed.weight"]
    says = ["scorer.K (looked for '2.K')", "text_encoder.embedding.weight (looked for '1.embed.weight')", "2.kernel"]
    rejected_scan(says=[*says, "--key-map MAP.json"])


def test_a_scan_checkpoint_with_extra_parameters(rejected_scan, scan_content):
    scan_content["model"][0]["bn.weight"] = scan_content["model"][2]["Q9"] = torch.ones(1)
    rejected_scan(says=["parameters that are not CAAN's: 0.bn.weight, 2.Q9"])


def test_a_scan_checkpoint_with_a_parameter_of_the_wrong_shape(rejected_scan, scan_content):
    scan_content["model"][1]["embed.weight"] = torch.ones(24)
    rejected_scan(says=["text_encoder.embedding.weight is (24,), expected two dimensions"])


@pytest.mark.parametrize("value", ["λ", None, [1], float("nan")])
def test_a_scan_checkpoint_with_an_impossible_attention_scale(rejected_scan, scan_content, value):
    scan_content["opt"] = Namespace(attention_scale=value)
    rejected_scan(says=["attention_scale", "expected a number"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, ["can't read the key map map.json"]),
        ("{", ["can't read the key map map.json"]),
        ("[" * 100_000, ["can't read the key map map.json"]),
        ("[1]", ["key map map.json must be a JSON object"]),
        ('{"scorer.Z": "2.Z"}', ["map.json has 'scorer.Z'", "our names are", "scorer.K"]),
        ('{"scorer.K": 5}', ["map.json has 'scorer.K': 5"]),
        ('{"scorer.K": {"transpose": true}}', ["map.json has 'scorer.K'"]),
        ('{"scorer.K": "2.nowhere"}', ["scorer.K (looked for '2.nowhere')"]),
    ],
)
def test_a_bad_key_map(rejected_scan, tmp_path, text, says):
    if text is not None:
        (tmp_path / "map.json").write_text(text)
    rejected_scan("--key-map", "map.json", says=says)
