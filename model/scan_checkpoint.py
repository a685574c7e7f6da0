"""Checkpoints of code derived from the SCAN repository, in public code's forms: parameters and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .caan import CaanConfig
from .file_options import FileOptions
from .key_map import SCAN_KEYS, VECTORS, Found, KeyMap, find_parameters, listed, looked_for
from .parameters import check_kind
from .settings import Setting
from .stored_parameters import stored_parameters
from .what_is_missing import check_kind_of_model, how_to_ignore

_COUNTER = "num_batches_tracked"  # nn.BatchNorm's: no parameter


@dataclass(frozen=True)
class ScanContent:
    """A SCAN-family checkpoint without its vocabulary."""

    config: CaanConfig
    state: dict[str, Tensor]
    settings: list[Setting]
    vocab_size: int | float | None  # as its options say
    best_rsum: float | None


def is_scan(path: Path, content: Mapping[Any, Any]) -> bool:
    """Whether a file's content holds parameters in any form that `read_scan` understands."""
    return bool(stored_parameters(path, content)[0])


def read_scan(
    path: Path, content: Mapping[Any, Any], key_map: Path | None = None, attention_scale: float | None = None
) -> ScanContent:
    """A SCAN-family checkpoint's parameters under our names, and its settings.

    Raises CheckpointError for parameters that are missing, ambiguous or not CAAN's, for a bad key map, and for options
    that are not of their kind, as a switch that is neither true nor false.
    """
    rules = KeyMap.read(key_map)
    theirs, is_list = stored_parameters(path, content)
    found = find_parameters(path, theirs, rules, is_list)
    for name, tensor in found.state.items():
        check_kind(path, name, tensor)
    left, dropped = _without_idle(found)
    check_kind_of_model(path, found, left)
    if missing := [name for name in SCAN_KEYS if name not in found.state]:
        wanted = ", ".join(f"{name} (looked for '{looked_for(name, rules, is_list)}')" for name in missing)
        remedy = (
            "If a parameter has another name, give it with --key-map MAP.json, which holds"
            f' {{"{missing[0]}": "ITS NAME"}}, or {{"key": "ITS NAME", "transpose": true}} for an nn.Linear\'s weight'
            if left
            else "No key map can supply what the file does not hold: save the whole model"
        )
        raise CheckpointError(f"{path} lacks {wanted}; it has {listed(left)}. {remedy}")
    if left:
        raise CheckpointError(
            f"{path} has parameters that are not CAAN's: {listed(left)}. If the model's scores don't depend on them,"
            f" leave them out with --key-map MAP.json, which holds {how_to_ignore(left, found.keys.values())}"
        )
    options = FileOptions(path, content)
    config, settings = _config(path, found.state, options, attention_scale)
    if ignored := [*found.ignored, *dropped]:
        settings.append(Setting("ignored", listed(ignored), "option" if found.ignored else "default", "not CAAN's"))
    best = options.values.get("best_rsum")
    is_number = isinstance(best, int | float) and not isinstance(best, bool) and abs(best) < 1e6
    return ScanContent(
        config,
        found.state,
        settings,
        options.number("vocab_size") if options.values.get("vocab_size") is not None else None,
        float(best) if is_number else None,  # type: ignore[arg-type]
    )


def _without_idle(found: Found) -> tuple[dict[str, Tensor], list[str]]:
    """What nothing took, without parameters that change no score, and the names of those."""
    idle = [name for name in found.left if name.rpartition(".")[2] == _COUNTER]
    for vector in VECTORS:
        # A number added to all logits of a softmax changes nothing.
        bias = f"{found.keys.get(vector, '').removesuffix('weight')}bias"
        if bias in found.left and found.left[bias].numel() == 1:
            idle.append(bias)
    rest = {name: tensor for name, tensor in found.left.items() if name not in idle}
    return rest, sorted(idle)


def _config(
    path: Path, state: dict[str, Tensor], options: FileOptions, attention_scale: float | None
) -> tuple[CaanConfig, list[Setting]]:
    embed_dim, region_dim = _shape(state, "image_encoder.fc.weight")
    vocab_size, word_dim = _shape(state, "text_encoder.embedding.weight")
    scale, of_scale = options.scale(attention_scale)
    images, of_images = options.norm("no_imgnorm", "image norm")
    texts, of_texts = options.norm("no_txtnorm", "text norm")
    config = CaanConfig(
        region_dim=region_dim,
        embed_dim=embed_dim,
        word_dim=word_dim,
        attention_dim=_shape(state, "scorer.Q1")[1],
        vocab_size=vocab_size,
        attention_scale=scale,
        normalize_images=images,
        normalize_texts=texts,
    )
    return config, [of_scale, of_images, of_texts]


def _shape(state: dict[str, Tensor], name: str) -> tuple[int, int]:
    if state[name].ndim != 2:
        raise CheckpointError(f"{name} is {tuple(state[name].shape)}, expected two dimensions")
    return state[name].shape[0], state[name].shape[1]
