"""The parameters in a checkpoint of any form, by dotted names: nested, prefixed, weight-normed or as whole modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .parameters import check_kind
from .plain_objects import array_of, attributes_of

# Keys that hold a model's parameters; the first with tensors counts.
_HOLDERS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "weights", "params")
# Beginnings of keys beside the parameters of a file without such a key.
_OTHERS = ("optim", "sched", "lr_sched", "scaler", "ema", "opt", "args", "config", "cfg", "hparams", "log", "hist")
# What wrappers put into names: nn.DataParallel and torch.compile.
_WRAPPERS = ("module", "_orig_mod")
_DEEPEST, _MOST = 12, 100_000


def stored_parameters(path: Path, content: Mapping[object, object]) -> tuple[dict[str, Tensor], bool]:
    """A file's tensors by dotted name, and whether they are a list of state dicts, whose names begin with a number.

    Names are without the wrappers' `module.` and `_orig_mod.`; weight norms are folded into the weights. Returns no
    tensors for a file without any. Raises CheckpointError for a weight norm of tensors that are not floats.
    """
    for key in _HOLDERS:
        found: dict[str, Tensor] = {}
        _collect(content.get(key), "", found, set())
        if found:
            return _folded(path, _unwrapped(found)), isinstance(content[key], list | tuple)
    found = {}
    if "_modules" in attributes_of(content):
        _collect(content, "", found, set())
    _collect(
        {key: value for key, value in content.items() if not str(key).lower().startswith(_OTHERS)}, "", found, set()
    )
    return _folded(path, _unwrapped(found)), False


def _collect(value: object, name: str, found: dict[str, Tensor], seen: set[int], depth: int = 0) -> None:
    """Add every tensor under `value`. seen: containers that were read; a file may hold one many times, or in itself."""
    if depth > _DEEPEST or len(found) > _MOST or id(value) in seen:
        return
    if isinstance(value, Mapping | list | tuple) and value:
        seen.add(id(value))
    if isinstance(value, Tensor):
        found[name] = value
    elif (array := array_of(value)) is not None and array.dtype.kind == "f":
        found[name] = torch.from_numpy(array.astype(np.float64))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            _collect(part, _joined(name, index), found, seen, depth + 1)
    elif isinstance(value, Mapping):
        attributes = attributes_of(value)
        for key, part in value.items():
            _collect(part, _joined(name, key), found, seen, depth + 1)
        if "_modules" in attributes:  # a module that was saved whole
            for kind in ("_parameters", "_buffers", "_modules"):
                _collect(attributes.get(kind), name, found, seen, depth + 1)


def _joined(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _unwrapped(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the wrappers' parts, if they stay different."""
    names = {name: without_wrappers(name) or name for name in found}
    if len(set(names.values())) < len(names):
        return found
    return {names[name]: tensor for name, tensor in found.items()}


def without_wrappers(name: str) -> str:
    """A name without the parts that nn.DataParallel and torch.compile add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _folded(path: Path, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weight-normed weights as `g · v / ‖v‖`, as torch.nn.utils.weight_norm and its successor compute them.

    Source: Salimans and Kingma, "Weight Normalization", NeurIPS 2016.
    """
    result = dict(found)
    for name in found:
        if name.endswith("_g"):
            names, weight = (name, f"{name[:-2]}_v"), name[:-2]
        elif ".parametrizations." in name and name.endswith(".original0"):
            stem = name.removesuffix(".original0")
            names, weight = (name, f"{stem}.original1"), stem.replace(".parametrizations.", ".")
        else:
            continue
        if names[1] not in found or weight in found:
            continue
        g, v = (result.pop(part) for part in names)
        for part, tensor in zip(names, (g, v), strict=True):
            check_kind(path, part, tensor)
        result[weight] = _weight(path, weight, g.double(), v.double())
    return result


def _weight(path: Path, name: str, g: Tensor, v: Tensor) -> Tensor:
    # The norm runs over the dimensions in which g has one entry: g is (D, 1) for a row each, () for the whole.
    if g.ndim not in (0, v.ndim) or any(size not in (1, full) for size, full in zip(g.shape, v.shape, strict=False)):
        raise CheckpointError(
            f"{path}: the weight norm of {name} has g {tuple(g.shape)} and v {tuple(v.shape)}, which don't"
            " fit together; call torch.nn.utils.remove_weight_norm and save again"
        )
    axes = tuple(range(v.ndim)) if g.ndim == 0 else tuple(axis for axis, size in enumerate(g.shape) if size == 1)
    squares = v.square()
    norm = (squares.sum(axes, keepdim=True) if axes else squares).sqrt()
    return (g * v / norm).float()
