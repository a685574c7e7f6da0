"""The options that training code of the SCAN family keeps in its checkpoints: `opt`, in whatever form it was saved."""

from __future__ import annotations

import argparse
import ast
import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .plain_objects import attributes_of, plain
from .settings import Setting

# Where code bases keep their options; the first of these that a file has is read.
OPTION_KEYS = ("opt", "opts", "args", "options", "config", "cfg", "hparams", "hyper_parameters")
# Scales of other attentions. What they mean for CAAN's λ is not known, so they are only mentioned.
_OTHER_SCALES = ("lambda_softmax", "lambda_attention", "attn_scale", "att_scale", "smooth", "temperature")
_BOXED = "_val"  # an OmegaConf node's value
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_DEEPEST = 5
# Of values from a file, which may be nested without end.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 200


class FileOptions:
    """A checkpoint's options by name, nested ones included. `where` is the key that held them, for messages."""

    def __init__(self, path: Path, content: Mapping[Any, Any]) -> None:
        self.path = path
        self.where, found = next(
            ((key, options) for key in OPTION_KEYS if (options := _mapping(content.get(key))) is not None), ("opt", {})
        )
        unread = [key for key in OPTION_KEYS[:1] if content.get(key) is not None and _mapping(content[key]) is None]
        if unread:
            raise CheckpointError(
                f"{path}: {unread[0]} is {shown(content[unread[0]])}, expected options by name;"
                " save a dictionary, as vars(opt)"
            )
        self.values: dict[str, object] = {}
        _collect({key: value for key, value in content.items() if not isinstance(value, Mapping)}, self.values, set())
        _collect(found, self.values, set())

    def switch(self, name: str) -> bool | None:
        """True or false; None if the file doesn't say."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE, "none", ""):
            return value.strip().lower() in _TRUE if value.strip().lower() not in ("none", "") else None
        if isinstance(value, bool | int | float) and value in (0, 1):
            return bool(value)
        raise CheckpointError(f"{self.path}: {self.where}.{name} is {shown(value)}, expected true or false")

    def number(self, name: str) -> int | float | None:
        """A number; None if the file doesn't say."""
        if name not in self.values:
            return None
        value = self.values[name]
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.path}: {self.where}.{name} is {shown(self.values[name])}, expected a number")
        return value

    def scale(self, chosen: float | None) -> tuple[float, Setting]:
        """λ: the option's, else the file's, else 1, and where it came from."""
        if chosen is not None:
            return chosen, Setting("λ", f"{chosen:.10g}", "option", "--attention-scale")
        stored = self.number("attention_scale")
        if stored is not None:
            return stored, Setting("λ", shown_number(stored), "file", f"{self.where}.attention_scale")
        others = [f"its {name} is {shown_number(self.values[name])}" for name in _OTHER_SCALES if name in self.values]
        note = "; ".join(["the file names none", *others])
        return 1.0, Setting("λ", "1", "default", f"{note}; --attention-scale sets another")

    def norm(self, name: str, label: str) -> tuple[bool, Setting]:
        """Whether a norm is on, which the file's switch `name` turns off, and where it came from."""
        off = self.switch(name)
        if off is None:
            return True, Setting(label, "on", "default", f"the file has no {name}")
        value = "true" if off else "false"
        return not off, Setting(label, "off" if off else "on", "file", f"{self.where}.{name} is {value}")


def shown(value: object) -> str:
    """A value's repr, shortened; an integer may have more digits than Python prints."""
    try:
        text = _REPR.repr(value)
    except Exception:  # an arbitrary object from the file
        return f"a {type(value).__name__} that can't be printed"
    return text if len(text) <= 60 else f"{text[:60]}…"


def shown_number(value: object) -> str:
    """A float without needless zeros, anything else as `shown`; an integer may have more digits than a float holds."""
    return f"{value:.10g}" if isinstance(value, float) else shown(value)


def _mapping(value: object) -> Mapping[Any, Any] | None:
    """Options by name: a dictionary's items, an object's attributes, or either as text; None for anything else."""
    if isinstance(value, str):
        return _parsed(value)
    if isinstance(value, Mapping):
        return {**attributes_of(value), **value}
    # PyTorch makes the class itself if the process has allow-listed it.
    return vars(value) if isinstance(value, argparse.Namespace) else None


def _parsed(text: str) -> Mapping[Any, Any] | None:
    """A dictionary's JSON or repr, or the repr of an argparse.Namespace."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            if isinstance(tree, ast.Call):
                content = {word.arg: ast.literal_eval(word.value) for word in tree.keywords}
            else:
                content = ast.literal_eval(tree)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return content if isinstance(content, dict) else None


def _collect(options: Mapping[Any, Any], into: dict[str, object], seen: set[int], depth: int = 0) -> None:
    """Add options by their own names; an outer one is preferred to a nested one of that name.

    seen: parts that were read already; a file may hold a part in many places, or within itself.
    """
    nested = []
    for key, value in options.items():
        if isinstance(value, Mapping) and _BOXED not in attributes_of(value):
            if id(value) not in seen:
                seen.add(id(value))
                nested.append({**attributes_of(value), **value})
        elif isinstance(key, str):
            into[key] = _simple(value)
    if depth < _DEEPEST:
        for part in nested:
            inner: dict[str, object] = {}
            _collect(part, inner, seen, depth + 1)
            for key, value in inner.items():
                into.setdefault(key, value)


def _simple(value: object) -> object:
    """A tensor or array of one number as that number, and a boxed value as itself."""
    value = attributes_of(value).get(_BOXED, value)
    if isinstance(value, Tensor):
        is_number = value.numel() == 1 and value.layout == torch.strided and not (value.is_meta or value.is_quantized)
        return value.item() if is_number else value
    return plain(value)
