"""Checkpoints with invalid tensors, or that claim more than they hold: one sentence each, and no memory allocated."""

import pickletools
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace

import pytest
import torch

from caan.errors import CheckpointError
from caan.model import checkpoint as checkpoint_module
from caan.model.checkpoint import load_checkpoint

K = "scorer.K"
PLAIN = "plain tensors of float32"


def nested(weight):
    return torch.nested.nested_tensor([weight, weight])


TENSORS = {
    "sparse": (lambda w: w.to_sparse(), ["sparse", PLAIN]),
    "compressed": (lambda w: w.to_sparse_csr(), ["sparse", PLAIN]),
    "quantized": (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), ["quantized", PLAIN]),
    "float8": (lambda w: w.to(torch.float8_e4m3fn), ["scorer.K is float8_e4m3fn, not floats", PLAIN]),
    "complex": (lambda w: w.to(torch.complex64), ["scorer.K is complex64, not floats", PLAIN]),
    "integers": (lambda w: w.long(), ["scorer.K is int64, not floats", PLAIN]),
    "meta": (lambda w: w.to("meta"), ["without numbers, on the device 'meta'", PLAIN]),
    "nested": (nested, ["nested", PLAIN]),
    "stride 0": (lambda w: torch.ones(1).expand(w.shape), ["scorer.K repeats its numbers", "contiguous()"]),
    "beyond float32": (lambda w: w.double() * 1e300, ["scorer.K holds numbers too large for float32"]),
}


@pytest.fixture
def content(tiny_folder) -> dict:
    return torch.load(tiny_folder / "model.pt", weights_only=True)


@pytest.fixture
def rejected(refused, tmp_path):
    """rejected(content, says=…): `caan export` of a checkpoint with this content is refused."""

    def check(content, says):
        torch.save(content, tmp_path / "model.pt")
        return refused("export", "model.pt", says=["model.pt", *says])

    return check


@pytest.mark.filterwarnings("ignore")  # PyTorch's, of kinds of tensors that it calls prototypes
@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_that_is_not_an_array_of_floats(rejected, content, kind):
    make, says = TENSORS[kind]
    content["state_dict"][K] = make(content["state_dict"][K])
    rejected(content, says)


def test_such_a_tensor_of_a_scan_checkpoint(refused, content, vocabulary, tmp_path):
    state = content["state_dict"]
    image = {"fc.weight": state["image_encoder.fc.weight"].to(torch.complex64)}
    torch.save({"model": [image], "opt": Namespace()}, tmp_path / "model.pt")
    vocabulary.save(tmp_path / "vocab.json")
    says = ["image_encoder.fc.weight is complex64", PLAIN]
    refused("export", "model.pt", "--vocab", "vocab.json", says=says)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_accepted(content, tmp_path, dtype):
    content["state_dict"][K] = content["state_dict"][K].to(dtype)
    torch.save(content, tmp_path / "model.pt")
    assert load_checkpoint(tmp_path / "model.pt").model.scorer.K.dtype == torch.float32


HUGE = 10**400
VALUES = {
    "a size": (lambda c: c["config"].update(embed_dim=HUGE), ["config.embed_dim is 1000", "…, expected an integer"]),
    "a scale": (lambda c: c["config"].update(attention_scale=HUGE), ["attention_scale is 1000", "expected a number"]),
    "a scale beyond float32": (lambda c: c["config"].update(attention_scale=1e39), ["attention_scale is 1e+39"]),
    "a version": (lambda c: c.update(version=HUGE), ["format version 1000", "…, this caan reads up to 2"]),
    "an id": (lambda c: c["vocabulary"].update(x=HUGE), ["maps some word to something that is not an id"]),
    "a tensor as a switch": (lambda c: c["config"].update(normalize=torch.ones(2)), ["config.normalize is tensor("]),
    "a tensor as the config": (lambda c: c.update(config=torch.ones(2)), ["incomplete caan-checkpoint"]),
    "a tensor as the vocabulary": (lambda c: c.update(vocabulary=torch.ones(2)), ["incomplete caan-checkpoint"]),
    "a tensor in metrics": (lambda c: c["metrics"].update(r1=torch.ones(2)), ["metrics['r1']", "Tensor", ".item()"]),
    "a tensor deep in metrics": (lambda c: c.update(metrics={"dev": [{"r": torch.ones(())}]}), ["metrics['dev'][0]"]),
    "a huge metric": (lambda c: c["metrics"].update(rsum=HUGE), ["metrics['rsum']", "which JSON can't hold"]),
    "a key of metrics": (lambda c: c["metrics"].update({5: 1.0}), ["a key that is not a string"]),
}


@pytest.mark.parametrize("name", VALUES)
def test_an_impossible_value(rejected, content, name):
    change, says = VALUES[name]
    change(content)
    rejected(content, says)


def test_metrics_that_are_larger_than_they_look(rejected, content):
    content["metrics"] = {"r": [1.0]}
    for _ in range(40):
        content["metrics"] = {"r": [content["metrics"], content["metrics"]]}
    rejected(content, ["metrics holds more than 100,000 values"])


def rewritten(path, change, packing=zipfile.ZIP_STORED, **parts):
    """The archive with a changed pickle and added parts."""
    with zipfile.ZipFile(path) as archive:
        content = {part.filename: archive.read(part) for part in archive.infolist()}
    name = next(name for name in content if name.endswith("/data.pkl"))
    content[name] = change(content[name])
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, part in {**content, **parts}.items():
            archive.writestr(name, part)


def claimed(pickled: bytes, find: int, number: int) -> bytes:
    """The pickle with the integer `find` steps after the first tensor's storage replaced."""
    steps = list(pickletools.genops(pickled))
    storage = next(place for place, (step, _, _) in enumerate(steps) if step.name == "BINPERSID")
    (step, _, start), (_, _, end) = steps[storage + find], steps[storage + find + 1]
    assert step.name.startswith("BININT")
    return pickled[:start] + b"J" + struct.pack("<i", number) + pickled[end:]


ARCHIVES = {
    "a storage of 8 GB": (lambda p: claimed(p, -3, 2**31 - 1), "a tensor of 2,147,483,647 numbers"),
    "a storage of one number more": (lambda p: claimed(p, -3, 121), "a tensor of 121 numbers"),
    "a tensor of 8 GB": (lambda p: claimed(p, 2, 2**31 - 1), "a tensor that spans"),
    "a tensor that begins behind the end": (lambda p: claimed(p, 1, 1000), "a tensor that spans"),
    "a tensor before the beginning": (lambda p: claimed(p, 1, -1), "a tensor of impossible sizes"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_claim_that_the_archive_does_not_hold(refused, tmp_path, content, name):
    change, says = ARCHIVES[name]
    torch.save(content, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", change)
    refused("export", "model.pt", says=["model.pt is corrupted", says, "more than the file holds"])


def test_an_archive_as_it_was_is_loaded(tmp_path, content):
    """Rewriting the archive alone, as the tests around this one do, is not refused."""
    torch.save(content, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", lambda pickled: pickled)
    assert load_checkpoint(tmp_path / "model.pt").metrics == content["metrics"]


def test_a_zip_bomb_is_not_unpacked(refused, tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", lambda p: p, zipfile.ZIP_DEFLATED, **{"model/data/99": bytes(1 << 24)})
    refused("export", "model.pt", says=["is compressed"])


def test_overlapping_parts(refused, tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt", "a") as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        for number in range(100_000 // max(1, largest.file_size) + 200):
            twin = zipfile.ZipInfo(f"model/data/{100 + number}")
            twin.header_offset, twin.CRC = largest.header_offset, largest.CRC
            twin.file_size = twin.compress_size = largest.file_size
            archive.filelist.append(twin)
        archive._didModify = True
    refused("export", "model.pt", says=["model.pt"])


def test_a_claim_of_the_old_form(refused, tmp_path, content):
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "model.pt").read_bytes()
    start = whole.index(b"storage")
    place = whole.index(b"K\x78", start)  # 120 numbers
    (tmp_path / "model.pt").write_bytes(whole[:place] + b"J\xff\xff\xff\x7f" + whole[place + 2 :])
    refused("export", "model.pt", says=["is corrupted: a tensor of 2,147,483,647 numbers, more than the file holds"])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_is_not_reported_as_damage(refused, tmp_path, content, monkeypatch, error):
    def load(*arguments, **options):
        raise error

    torch.save(content, tmp_path / "model.pt")
    monkeypatch.setattr(checkpoint_module.torch, "load", load)
    message = refused("export", "model.pt", says=["model.pt needs more memory than is available"])
    assert "corrupted" not in message


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_a_claim_takes_no_memory(tmp_path, content):
    """In a process with a memory limit: the claim of 8 GB is refused before anything is allocated."""
    torch.save(content, tmp_path / "model.pt")
    rewritten(tmp_path / "model.pt", ARCHIVES["a storage of 8 GB"][0])
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from caan.model.checkpoint import load_checkpoint\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: load_checkpoint(Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)\n"
        "assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.pt"], capture_output=True, text=True)
    assert done.returncode == 0 and "more than the file holds" in done.stdout, done.stderr


def test_names_in_the_old_form_s_first_pickle_are_not_run(tmp_path):
    """Checking sizes executes nothing: a file's first pickle is parsed before PyTorch loads it."""
    marker = tmp_path / "marker"
    (tmp_path / "model.pt").write_bytes(f"cos\nsystem\n(Vtouch {marker}\ntR.".encode())
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "model.pt")
    assert not marker.exists()
