"""Checkpoints: this project's `model.pt`, and those of code derived from the SCAN repository.

Both are read with PyTorch's restricted unpickler (`weights_only=True`): code in a file is never executed.
"""

from __future__ import annotations

import argparse
import io
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_file, read_input
from .._text import parse_json
from ..data.unreachable import unreachable_warning
from ..data.vocabulary import Vocabulary
from ..errors import CaanWarning, CheckpointError, DataError
from .archive import check_archive
from .caan import CAAN, CaanConfig
from .checkpoint_file import check_is_file
from .parameters import build_model, check_kind, is_memory, no_memory

FORMAT, VERSION = "caan-checkpoint", 1
# What most code of the SCAN family tokenizes with.
SCAN_TOKENIZER = "nltk"
# Larger sizes overflow before they can be compared with the parameters.
_LARGEST_SIZE = 1 << 24
_MOST_METRICS = 100_000
_LARGEST_SCALE = float(torch.finfo(torch.float32).max)

# Our parameter names → the SCAN family's: index of the state dict in "model", and key.
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


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its vocabulary. The model is in eval mode, float32, on the CPU."""

    model: CAAN
    vocabulary: Vocabulary
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScanOptions:
    """Information that a SCAN-family checkpoint lacks."""

    vocabulary: Path | None = None
    tokenizer: str | None = None  # None: the vocabulary file's, or `SCAN_TOKENIZER`
    key_map: Path | None = None
    attention_scale: float | None = None


def load_checkpoint(path: Path, scan: ScanOptions | None = None) -> Checkpoint:
    """Load a checkpoint of either family.

    `scan` supplies what SCAN-family files lack: vocabulary and tokenizer, parameter names (`key_map`: a JSON file {our
    name: their name}, theirs prefixed by the state dict's index, as "2.K"; a value may also be {"key": name,
    "transpose": true} for an nn.Linear weight), and λ.

    Raises CheckpointError for a file that is missing, damaged, not a checkpoint, or holds code, and, naming them, for
    parameters that are missing, unexpected, mis-shaped, NaN or infinite.
    """
    content = read_archive(path)
    if content.get("format") == FORMAT:
        config, state, vocabulary = _read_own(path, content)
    elif isinstance(content.get("model"), (list, tuple)):
        config, state, vocabulary = _read_scan(path, content, scan or ScanOptions())
    else:
        keys = ", ".join(_shown(key) if not isinstance(key, str) else key[:40] for key in list(content)[:5])
        raise CheckpointError(
            f"{path} is neither a {FORMAT} nor a SCAN-family checkpoint (its keys: {keys});"
            ' expected {"format": "caan-checkpoint", …} or {"model": [state dict, …], …}'
        )
    model = build_model(path, config, state)
    if len(vocabulary) > config.vocab_size:
        raise CheckpointError(
            f"{path}: the vocabulary has ids up to {len(vocabulary) - 1}, the embedding only {config.vocab_size} rows;"
            " pass the vocabulary that the model was trained with (--vocab)"
        )
    return Checkpoint(model, vocabulary, _metrics(path, content.get("metrics")))


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
    """`torch.save` plain types and tensors atomically. Raises OutputError if the file can't be written."""
    # Through memory: on a full disk torch.save raises a RuntimeError that does not mention the disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def read_archive(path: Path) -> dict[str, Any]:
    """Read a dictionary of plain types and tensors; code is never executed. Raises CheckpointError otherwise."""
    check_is_file(path)
    try:
        check_archive(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except Exception as error:  # torch.load raises nearly any type for damaged input
        if is_memory(error):
            raise no_memory(path) from error
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
    return "it is damaged or not a PyTorch checkpoint; name the model.pt that your training wrote"


def _read_own(path: Path, content: dict[str, Any]) -> tuple[CaanConfig, dict[str, Tensor], Vocabulary]:
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path} has format version {_shown(version)}, this caan reads up to {VERSION};"
            " update caan, as with git pull and pip install in its checkout"
        )
    try:
        known = {field.name for field in fields(CaanConfig)}
        config = CaanConfig(**{key: value for key, value in content["config"].items() if key in known})
        state, vocabulary = (
            {str(name): tensor for name, tensor in content["state_dict"].items()},
            Vocabulary(content["vocabulary"], content["tokenizer"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        detail = f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error)[:300]
        raise CheckpointError(f"{path} is an incomplete {FORMAT}: {detail}; save it again") from error
    _check_config(path, config)
    return config, state, vocabulary


def _check_config(path: Path, config: CaanConfig) -> None:
    for name in ("region_dim", "embed_dim", "word_dim", "attention_dim", "vocab_size"):
        size = getattr(config, name)
        if type(size) is not int or not 1 <= size <= _LARGEST_SIZE:
            raise CheckpointError(
                f"{path}: config.{name} is {_shown(size)}, expected an integer from 1 to {_LARGEST_SIZE}"
            )
    if type(config.normalize) is not bool:
        raise CheckpointError(f"{path}: config.normalize is {_shown(config.normalize)}, expected true or false")
    scale = config.attention_scale
    # Not math.isfinite: it fails for a huge integer.
    if type(scale) not in (int, float) or not abs(scale) <= _LARGEST_SCALE:
        raise CheckpointError(
            f"{path}: attention_scale is {_shown(scale)}, expected a number; give it as --attention-scale"
        )


def _shown(value: object) -> str:
    """A value's repr, shortened; an integer may have more digits than Python prints."""
    try:
        text = repr(value)
    except Exception:  # an arbitrary object from the file
        return f"a {type(value).__name__} that can't be printed"
    return text if len(text) <= 60 else f"{text[:60]}…"


def _read_scan(
    path: Path, content: dict[str, Any], options: ScanOptions
) -> tuple[CaanConfig, dict[str, Tensor], Vocabulary]:
    if options.vocabulary is None:
        raise CheckpointError(
            f"{path} is a SCAN-family checkpoint, which holds no vocabulary; add --vocab VOCAB.json (the one it was"
            " trained with)"
        )
    try:
        vocabulary = Vocabulary.load(options.vocabulary, options.tokenizer, default=SCAN_TOKENIZER)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if (message := unreachable_warning(vocabulary)) is not None:
        warnings.warn(message, CaanWarning, stacklevel=3)
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
            check_kind(path, name, tensor)
            state[name] = tensor.T if transpose else tensor
        else:
            missing.append(f"{name} (looked for '{key}')")
    if missing:
        raise CheckpointError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(sorted(theirs)[:12]) or 'nothing else'}."
            " If a parameter has another name, give it with --key-map MAP.json"
        )
    if theirs:
        raise CheckpointError(f"{path} has parameters that are not CAAN's: {', '.join(sorted(theirs))}")
    config = _scan_config(path, content, state, options.attention_scale)
    _check_config(path, config)
    return config, state, vocabulary


def _metrics(path: Path, stored: object) -> dict[str, Any]:
    """A checkpoint's metrics for the manifest: JSON values only."""
    pending: list[tuple[str, object]] = [("metrics", stored)]
    for _ in range(_MOST_METRICS + 1):
        if not pending:
            return stored if isinstance(stored, dict) else {}
        where, value = pending.pop()
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise CheckpointError(f"{path}: {where} has a key that is not a string; save it with string keys")
            pending += [(f"{where[:80]}[{key[:40]!r}]", part) for key, part in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(f"{where[:80]}[{number}]", part) for number, part in enumerate(value)]
        elif not (value is None or isinstance(value, bool | float | str) or _is_small(value)):
            raise CheckpointError(
                f"{path}: {where} has type {type(value).__name__}, which JSON can't hold; save a tensor's .item()"
            )
    raise CheckpointError(f"{path}: metrics holds more than {_MOST_METRICS:,} values; save fewer")


def _is_small(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 1 << 63


def _key_map(path: Path | None) -> dict[str, tuple[str, bool]]:
    """Our name → (their name, whether their tensor is transposed)."""
    result = {name: (key, False) for name, key in _SCAN_KEYS.items()}
    if path is None:
        return result
    try:
        content = parse_json(read_input(path))
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


def _scan_config(
    path: Path, content: dict[str, Any], state: dict[str, Tensor], attention_scale: float | None
) -> CaanConfig:
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
        normalize=not _flag(path, getattr(opt, "no_imgnorm", False)),
    )


def _flag(path: Path, value: object) -> bool:
    if not isinstance(value, bool | int):
        raise CheckpointError(f"{path}: opt.no_imgnorm is {_shown(value)}, expected true or false")
    return bool(value)


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, int]:
    if state[name].ndim != 2:
        raise CheckpointError(f"{name} is {tuple(state[name].shape)}, expected two dimensions")
    return state[name].shape[0], state[name].shape[1]
