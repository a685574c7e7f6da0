"""Checkpoints: this project's `model.pt`, and those of code that descends from the SCAN repository.

Both are read with PyTorch's restricted unpickler (`weights_only=True`): a file's code is never executed.
"""

from __future__ import annotations

import argparse
import io
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_file
from .._text import parse_json
from ..data.vocabulary import Vocabulary
from ..errors import CheckpointError, DataError
from .archive import check_is_file
from .caan import CAAN, CaanConfig

FORMAT, VERSION = "caan-checkpoint", 1
# Sizes above it overflow before any comparison with the parameters could refuse them.
_LARGEST_SIZE = 1 << 24

# Our parameter names → where the SCAN family keeps them: index of the state dict in "model", and key.
_SCAN_KEYS = {
    "image_encoder.fc.weight": "0.fc.weight",
    "image_encoder.fc.bias": "0.fc.bias",
    "text_encoder.embedding.weight": "1.embed.weight",
    **{
        f"text_encoder.gru.{kind}_{gate}_l0{suffix}": f"1.rnn.{kind}_{gate}_l0{suffix}"
        for kind in ("weight", "bias")
        for gate in ("ih", "hh")
        for suffix in ("", "_reverse")
    },
    **{f"scorer.{name}": f"2.{name}" for name in ("K", "Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "w_v", "w_u")},
}

_FOLDER = 0x10  # in the attributes of a zip archive's part


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with the vocabulary it was trained on. The model is in eval mode, float32, on the CPU."""

    model: CAAN
    vocabulary: Vocabulary
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanOptions:
    """What a SCAN-family checkpoint does not say about itself."""

    vocabulary: Path | None = None
    tokenizer: str = "word-punct"
    key_map: Path | None = None
    attention_scale: float | None = None


def load_checkpoint(path: Path, scan: ScanOptions | None = None) -> Checkpoint:
    """Load a checkpoint of either family.

    `scan` fills in what SCAN-family files lack: vocabulary and tokenizer, other parameter names (`key_map`: a JSON
    file {our name: their name}, theirs prefixed by the state dict's index, as "2.K"; a value may also be
    {"key": name, "transpose": true} for a weight of nn.Linear), and λ.

    Raises CheckpointError for a file that is missing, no checkpoint, damaged, or holds code; for parameters that are
    missing, unexpected, mis-shaped, NaN or infinite, naming them.
    """
    content = read_archive(path)
    if content.get("format") == FORMAT:
        config, state, vocabulary = _read_own(path, content)
    elif isinstance(content.get("model"), (list, tuple)):
        config, state, vocabulary = _read_scan(path, content, scan or ScanOptions())
    else:
        keys = ", ".join(str(key) for key in list(content)[:5])
        raise CheckpointError(
            f"{path} is neither a {FORMAT} nor a SCAN-family checkpoint (its keys: {keys});"
            ' expected {"format": "caan-checkpoint", …} or {"model": [state dict, …], …}'
        )
    model = _build(path, config, state)
    if len(vocabulary) > config.vocab_size:
        raise CheckpointError(
            f"{path}: the vocabulary has ids up to {len(vocabulary) - 1}, the embedding only {config.vocab_size} rows;"
            " pass the vocabulary that the model was trained with (--vocab)"
        )
    metrics = content.get("metrics")
    return Checkpoint(model, vocabulary, metrics if isinstance(metrics, dict) else {})


def save_checkpoint(path: Path, model: CAAN, vocabulary: Vocabulary, metrics: dict[str, Any] | None = None) -> None:
    """Write this project's checkpoint, atomically. Raises OutputError if the file can't be written."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config.as_dict(),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "vocabulary": vocabulary.words,
        "tokenizer": vocabulary.tokenizer,
        "metrics": metrics or {},
    }
    write_archive(path, content)


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """`torch.save` plain types and tensors, atomically. Raises OutputError if the file can't be written."""
    # By way of memory: on a full disk torch.save raises a RuntimeError that does not say so.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_archive(path: Path) -> dict[str, Any]:
    """Read a dictionary of plain types and tensors; code is never executed. Raises CheckpointError otherwise."""
    check_is_file(path)
    _check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises nearly any type for damaged input
        raise CheckpointError(f"{path} can't be loaded: {_why_unreadable(path, error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint dictionary")
    return content


def _why_unreadable(path: Path, error: Exception) -> str:
    text = str(error)
    if "GLOBAL" in text:
        culprit = text.partition("GLOBAL ")[2].split(" ")[0] or "an object"
        return f"it holds code or objects ({culprit}), which are never executed; save a dict of tensors instead"
    if zipfile.is_zipfile(path):
        return "it is corrupted; copy it again"
    return "it is no PyTorch checkpoint, or is damaged; name the model.pt that your training wrote"


def _check_archive(path: Path) -> None:
    """PyTorch does not compare the archive's checksums, so damage inside a tensor would go unseen."""
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise CheckpointError(f"{path} is empty; copy it again")
    if start != b"PK\x03\x04":
        return  # the old, uncompressed form, or no checkpoint at all: torch.load will tell
    try:
        with zipfile.ZipFile(path) as archive:
            # PyTorch reads nothing of a part that is marked as a folder, and hands out whatever was in memory.
            marked = [part.filename for part in archive.infolist() if part.external_attr & _FOLDER]
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises nearly any type for damaged input
        raise CheckpointError(f"{path} is truncated or corrupted; copy it again") from error
    if marked:
        raise CheckpointError(f"{path} is corrupted: its part {marked[0]} is marked as a folder; copy it again")
    if damaged is not None:
        raise CheckpointError(f"{path} is corrupted: the checksum of its part {damaged} is wrong; copy it again")


def _read_own(path: Path, content: dict[str, Any]) -> tuple[CaanConfig, dict[str, Tensor], Vocabulary]:
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, this caan reads up to {VERSION};"
            " update with: pip install -U caan-deploy"
        )
    try:
        known = {field.name for field in fields(CaanConfig)}
        config = CaanConfig(**{key: value for key, value in content["config"].items() if key in known})
        state, vocabulary = (
            {str(name): tensor for name, tensor in content["state_dict"].items()},
            Vocabulary(content["vocabulary"], content["tokenizer"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        detail = f"no '{error.args[0]}'" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{path} is an incomplete {FORMAT}: {detail}; save it again") from error
    _check_config(path, config)
    return config, state, vocabulary


def _check_config(path: Path, config: CaanConfig) -> None:
    for name in ("region_dim", "embed_dim", "word_dim", "attention_dim", "vocab_size"):
        size = getattr(config, name)
        if type(size) is not int or not 1 <= size <= _LARGEST_SIZE:
            raise CheckpointError(f"{path}: config.{name} is {size!r}, expected an integer from 1 to {_LARGEST_SIZE}")
    scale = config.attention_scale
    if type(scale) not in (int, float) or not math.isfinite(scale):
        raise CheckpointError(f"{path}: attention_scale is {scale!r}, expected a number; give it as --attention-scale")


def _read_scan(
    path: Path, content: dict[str, Any], options: ScanOptions
) -> tuple[CaanConfig, dict[str, Tensor], Vocabulary]:
    if options.vocabulary is None:
        raise CheckpointError(
            f"{path} is a SCAN-family checkpoint, which holds no vocabulary; add --vocab VOCAB.json (the one it was"
            " trained with)"
        )
    try:
        vocabulary = Vocabulary.load(options.vocabulary, options.tokenizer)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    theirs = {
        f"{index}.{str(key).removeprefix('module.')}": tensor  # nn.DataParallel's prefix
        for index, part in enumerate(content["model"])
        if isinstance(part, Mapping)
        for key, tensor in part.items()
    }
    state, missing = {}, []
    for name, (key, transpose) in _key_map(options.key_map).items():
        tensor = theirs.pop(key, None)
        if isinstance(tensor, Tensor):
            state[name] = tensor.T if transpose else tensor
        else:
            missing.append(f"{name} (looked for '{key}')")
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(theirs)[:12]) or 'nothing else'}."
            " If a parameter has another name, give it with --key-map MAP.json"
        )
    if theirs:
        raise CheckpointError(f"{path} has parameters that CAAN has no place for: {', '.join(sorted(theirs))}")
    config = _scan_config(content, state, options.attention_scale)
    _check_config(path, config)
    return config, state, vocabulary


def _key_map(path: Path | None) -> dict[str, tuple[str, bool]]:
    """Our name → (their name, whether theirs is transposed)."""
    result = {name: (key, False) for name, key in _SCAN_KEYS.items()}
    if path is None:
        return result
    try:
        content = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"can't read the key map {path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"the key map {path} must be a JSON object {{our name: their name}}")
    for name, value in content.items():
        key, transpose = (value.get("key"), bool(value.get("transpose"))) if isinstance(value, dict) else (value, False)
        if name not in result or not isinstance(key, str):
            raise CheckpointError(f"the key map {path} has '{name}': {value!r}; our names are {', '.join(result)}")
        result[name] = (key, transpose)
    return result


def _scan_config(content: dict[str, Any], state: dict[str, Tensor], attention_scale: float | None) -> CaanConfig:
    opt = content.get("opt")
    if attention_scale is None:
        attention_scale = getattr(opt, "attention_scale", 1.0)
    embed_dim, region_dim = _shape(state, "image_encoder.fc.weight")
    vocab_size, word_dim = _shape(state, "text_encoder.embedding.weight")
    return CaanConfig(
        region_dim=region_dim,
        embed_dim=embed_dim,
        word_dim=word_dim,
        attention_dim=_shape(state, "scorer.Q1")[1],
        vocab_size=vocab_size,
        attention_scale=attention_scale,
        normalize=not getattr(opt, "no_imgnorm", False),
    )


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, int]:
    if state[name].ndim != 2:
        raise CheckpointError(f"{name} is {tuple(state[name].shape)}, expected two dimensions")
    return state[name].shape[0], state[name].shape[1]


def _build(path: Path, config: CaanConfig, state: dict[str, Tensor]) -> CAAN:
    """The model with these parameters, or an error that names every one that does not fit."""
    with torch.device("meta"):  # sizes from a file: compare shapes before allocating anything
        expected = {name: tuple(tensor.shape) for name, tensor in CAAN(config).state_dict().items()}
    found = {name: tuple(value.shape) if isinstance(value, Tensor) else () for name, value in state.items()}
    problems = []
    if missing := sorted(expected.keys() - found.keys()):
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := sorted(found.keys() - expected.keys()):
        problems.append(f"unexpected: {', '.join(unexpected)}")
    if wrong := [f"{n} is {found[n]}, expected {s}" for n, s in expected.items() if n in found and found[n] != s]:
        problems.append(f"mis-shaped: {', '.join(wrong)}")
    if problems:
        raise CheckpointError(f"{path} does not fit its config; {'; '.join(problems)}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: parameter {name} holds NaN or infinity; export an earlier checkpoint")
    model = CAAN(config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model.eval().requires_grad_(False)
