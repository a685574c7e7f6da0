"""Checkpoints: this project's `model.pt`, and those of code derived from the SCAN repository.

Both are read with PyTorch's restricted unpickler (`weights_only=True`): code in a file is never executed.
"""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_file
from .._text import json_text, visible
from ..data.unreachable import unreachable_warning
from ..data.vocabulary import Vocabulary
from ..errors import CaanWarning, CheckpointError, DataError, VocabularyNeeded
from .archive import check_archive
from .caan import CAAN, CaanConfig
from .checkpoint_file import check_is_file
from .file_options import shown, shown_number
from .fitting_vocabulary import fits, fitting
from .parameters import build_model, is_memory, no_memory
from .plain_objects import CodeError, standins
from .scan_checkpoint import is_scan, read_scan
from .settings import Setting, settings_from

FORMAT, VERSION = "caan-checkpoint", 2
# The older version is written wherever it says all, so that older versions of caan read the file too.
_VERSION_OF_ONE_NORM = 1
# Larger sizes overflow before they can be compared with the parameters.
_LARGEST_SIZE = 1 << 24
_MOST_METRICS = 100_000
_LARGEST_SCALE = float(torch.finfo(torch.float32).max)
# Of a SCAN-family checkpoint's vocabulary, whose file names none: what most code of the family tokenizes with.
SCAN_TOKENIZER = "nltk"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its vocabulary. The model is in eval mode, float32, on the CPU."""

    model: CAAN
    vocabulary: Vocabulary
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: Sequence[Setting] = ()  # where each setting came from
    is_converted: bool = False  # not this project's file: what it lacks came from options
    is_mismatch_allowed: bool = False  # the vocabulary is of another size than the embedding, as its user knows

    def digest(self) -> str:
        """SHA-256 of all that scores depend on: config, vocabulary, tokenizer and parameters, in whatever file."""
        words = [self.vocabulary.tokenizer, *sorted(self.vocabulary.words.items())]
        digest = hashlib.sha256(json_text([self.model.config.as_dict(), words], indent=None).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class ScanOptions:
    """Information that a SCAN-family checkpoint lacks."""

    vocabulary: Path | None = None
    tokenizer: str | None = None  # None: the vocabulary file's, or `SCAN_TOKENIZER`
    key_map: Path | None = None
    attention_scale: float | None = None
    allow_vocab_mismatch: bool = False  # also of this project's files


def load_checkpoint(path: Path, scan: ScanOptions | None = None) -> Checkpoint:
    """Load a checkpoint of either family.

    `scan` supplies what SCAN-family files lack: vocabulary and tokenizer, parameter names (`key_map`, as
    `KeyMap.read`), and λ. What the file says of its norms and its λ is read from its options, in whatever form.

    Raises CheckpointError for a file that is missing, damaged, not a checkpoint, or holds code; for a vocabulary whose
    size is not the embedding's (unless `allow_vocab_mismatch`); and, naming them, for parameters that are missing,
    unexpected, mis-shaped, NaN or infinite.
    """
    options = scan or ScanOptions()
    content = read_archive(path)
    if content.get("format") == FORMAT:
        return _own_checkpoint(path, content, options)
    check_is_scan(path, content)
    if options.vocabulary is None:
        raise VocabularyNeeded(path)
    read = read_scan(path, content, options.key_map, options.attention_scale)
    try:
        vocabulary = Vocabulary.load(options.vocabulary, options.tokenizer, default=SCAN_TOKENIZER)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    unreachable = unreachable_warning(vocabulary)
    if unreachable is not None:
        warnings.warn(unreachable, CaanWarning, stacklevel=2)
    check_config(path, read.config)
    model = build_model(path, read.config, read.state)
    vocabulary, of_vocabulary = fitting(
        path, vocabulary, read.config.vocab_size, read.vocab_size, options.allow_vocab_mismatch, options.vocabulary
    )
    settings = [*read.settings, _of_tokenizer(vocabulary, options, unreachable), of_vocabulary]
    metrics: dict[str, Any] = {} if read.best_rsum is None else {"best_rsum": read.best_rsum}
    with suppress(CheckpointError):  # of a form of their own
        metrics |= _metrics(path, content.get("metrics"))
    is_fit = fits(vocabulary, read.config.vocab_size)
    return Checkpoint(model, vocabulary, metrics, settings, is_converted=True, is_mismatch_allowed=not is_fit)


def _of_tokenizer(vocabulary: Vocabulary, options: ScanOptions, unreachable: str | None) -> Setting:
    source, note = "default", "SCAN-family code's; --tokenizer sets another"
    if options.tokenizer is not None:
        source, note = "option", "--tokenizer"
    elif vocabulary.names_tokenizer:
        source, note = "file", "the vocabulary's"
    return Setting("tokenizer", vocabulary.tokenizer, source, "; ".join(filter(None, (note, unreachable))))


def check_is_scan(path: Path, content: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a dictionary of neither family."""
    if not is_scan(path, content):
        keys = ", ".join(shown(key) if not isinstance(key, str) else key[:40] for key in list(content)[:5])
        raise CheckpointError(
            f"{path} is neither a {FORMAT} nor a SCAN-family checkpoint: it holds no tensors (its keys: {keys});"
            ' expected {"format": "caan-checkpoint", …} or {"model": [state dict, …], …}'
        )


def _own_checkpoint(path: Path, content: dict[str, Any], options: ScanOptions) -> Checkpoint:
    for value, name in (
        (options.vocabulary, "--vocab"),
        (options.key_map, "--key-map"),
        (options.attention_scale, "--attention-scale"),
        (options.tokenizer, "--tokenizer"),
    ):
        if value is not None:
            warnings.warn(f"{name} is for SCAN-family checkpoints: {path} holds its own", CaanWarning, stacklevel=3)
    config, state, vocabulary = _read_own(path, content)
    model = build_model(path, config, state)
    is_allowed = options.allow_vocab_mismatch or content.get("allow_vocab_mismatch") is True
    vocabulary, of_vocabulary = fitting(path, vocabulary, config.vocab_size, None, is_allowed, None)
    settings = settings_from(content.get("settings")) or [*own_settings(config, vocabulary.tokenizer), of_vocabulary]
    metrics = _metrics(path, content.get("metrics"))
    is_fit = fits(vocabulary, config.vocab_size)
    return Checkpoint(model, vocabulary, metrics, settings, is_mismatch_allowed=not is_fit)


def own_settings(config: CaanConfig, tokenizer: str) -> list[Setting]:
    """The settings of a file of this project, which holds them all."""
    switches = (("image norm", config.normalize_images), ("text norm", config.normalize_texts))
    return [
        Setting("λ", shown_number(config.attention_scale), "file"),
        *(Setting(name, "on" if is_on else "off", "file") for name, is_on in switches),
        Setting("tokenizer", tokenizer, "file"),
    ]


def save_checkpoint(path: Path, model: CAAN, vocabulary: Vocabulary, metrics: dict[str, Any] | None = None) -> None:
    """Write this project's checkpoint, atomically. Raises OutputError if the file can't be written."""
    with converted(path, Checkpoint(model, vocabulary, metrics or {})):
        pass


@contextmanager
def converted(path: Path, checkpoint: Checkpoint) -> Iterator[Path]:
    """Write a checkpoint as this project's, settings included; yields the file, which is moved to `path` at the end.

    A vocabulary of another size than the embedding's, which `load_checkpoint` was told to allow, stays allowed. Raises
    OutputError if the file can't be written.
    """
    model, vocabulary = checkpoint.model, checkpoint.vocabulary
    has_one_norm = model.config.normalize_images == model.config.normalize_texts
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": _VERSION_OF_ONE_NORM if has_one_norm else VERSION,
        "config": model.config.as_dict(),
        "state_dict": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "vocabulary": vocabulary.words,
        "tokenizer": vocabulary.tokenizer,
        "metrics": checkpoint.metrics,
    }
    if checkpoint.settings:
        content["settings"] = [setting.as_dict() for setting in checkpoint.settings]
    if checkpoint.is_mismatch_allowed:
        content["allow_vocab_mismatch"] = True
    with written_archive(path, content) as temporary:
        yield temporary


def write_archive(path: Path, content: dict[str, Any]) -> None:
    """`torch.save` plain types and tensors atomically. Raises OutputError if the file can't be written."""
    with written_archive(path, content):
        pass


@contextmanager
def written_archive(path: Path, content: dict[str, Any]) -> Iterator[Path]:
    """As `write_archive`; yields the written file before it is moved to `path`."""
    # Through memory: on a full disk torch.save raises a RuntimeError that does not mention the disk.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
        yield temporary


def read_archive(path: Path) -> dict[str, Any]:
    """Read a dictionary of plain types and tensors; code is never executed. Raises CheckpointError otherwise."""
    check_is_file(path)
    try:
        names = check_archive(path)
        with torch.serialization.safe_globals(standins(names)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror or error}") from error
    except CheckpointError:
        raise
    except CodeError as error:
        raise CheckpointError(
            f"{path} can't be loaded: it holds code or objects ({visible(str(error)[:80])}), which are never executed;"
            " save a dict of tensors instead"
        ) from error
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
        if "Unsupported operand" in text:
            return (
                "it is saved with another pickle protocol than torch.save's own, 2; save it again without that option"
            )
        # Its checksums are right.
        return "it holds other objects than plain data and tensors; save a dict of tensors instead"
    return "it is damaged or not a PyTorch checkpoint; name the model.pt that your training wrote"


def _read_own(path: Path, content: dict[str, Any]) -> tuple[CaanConfig, dict[str, Tensor], Vocabulary]:
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise CheckpointError(
            f"{path} has format version {shown(version)}, this caan reads up to {VERSION};"
            " update caan, as with git pull and pip install in its checkout"
        )
    try:
        config = CaanConfig.from_dict(dict(content["config"].items()))
        state, vocabulary = (
            {str(name): tensor for name, tensor in content["state_dict"].items()},
            Vocabulary(content["vocabulary"], content["tokenizer"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        detail = f"no '{error.args[0]}'" if isinstance(error, KeyError) else str(error)[:300]
        raise CheckpointError(f"{path} is an incomplete {FORMAT}: {detail}; save it again") from error
    check_config(path, config)
    return config, state, vocabulary


def check_config(path: Path, config: CaanConfig) -> None:
    """Raise CheckpointError for an invalid size, switch or λ."""
    for name in ("region_dim", "embed_dim", "word_dim", "attention_dim", "vocab_size"):
        size = getattr(config, name)
        if type(size) is not int or not 1 <= size <= _LARGEST_SIZE:
            raise CheckpointError(
                f"{path}: config.{name} is {shown(size)}, expected an integer from 1 to {_LARGEST_SIZE}"
            )
    for name in ("normalize_images", "normalize_texts"):
        value = getattr(config, name)
        if type(value) is not bool:
            key = "normalize" if config.normalize_images is config.normalize_texts else name
            raise CheckpointError(f"{path}: config.{key} is {shown(value)}, expected true or false")
    scale = config.attention_scale
    # Not math.isfinite: it fails for a huge integer.
    if type(scale) not in (int, float) or not abs(scale) <= _LARGEST_SCALE:
        raise CheckpointError(
            f"{path}: attention_scale is {shown(scale)}, expected a number; give it as --attention-scale"
        )


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
