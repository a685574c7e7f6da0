"""Their names → ours: a SCAN-family checkpoint's parameters by name, by a key map, or as the only candidate."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from torch import Tensor

from .._files import read_input
from .._text import parse_json
from ..errors import CheckpointError
from .stored_parameters import without_wrappers

GATES = tuple(
    f"{kind}_{gate}_l0{suffix}" for kind in ("weight", "bias") for gate in ("ih", "hh") for suffix in ("", "_reverse")
)
SCORER = ("K", "Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "w_v", "w_u")
VECTORS = ("scorer.w_v", "scorer.w_u")
_GRU = "text_encoder.gru."
# Our names → the SCAN family's in its list of state dicts.
SCAN_KEYS = {
    "image_encoder.fc.weight": "0.fc.weight",
    "image_encoder.fc.bias": "0.fc.bias",
    "text_encoder.embedding.weight": "1.embed.weight",
    **{f"{_GRU}{gate}": f"1.rnn.{gate}" for gate in GATES},
    **{f"scorer.{name}": f"2.{name}" for name in SCORER},
}
_EMBEDDINGS = ("embed", "embedding", "embeddings", "word_embed", "word_embedding", "word_embeddings", "emb")
_ENCODERS = ("image_encoder.", "text_encoder.", "scorer.")
_SHOWN = 12


@dataclass(frozen=True)
class KeyMap:
    """A key map's content; empty without one.

    names: our name → (theirs, whether theirs is transposed). prefixes: beginning of our names → of theirs. ignored:
    patterns of their names.
    """

    names: dict[str, tuple[str, bool]] = field(default_factory=dict)
    prefixes: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | None) -> KeyMap:
        """Read a JSON object {our name: their name, or {"key": their name, "transpose": true}}.

        `"scorer.*": "caan.*"` maps all names with a prefix, `"ignore": ["bn.*"]` leaves parameters out. Raises
        CheckpointError, naming the entry, for any other content.
        """
        if path is None:
            return cls()
        try:
            content = parse_json(read_input(path))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"can't read the key map {path}: {error}") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"the key map {path} must be a JSON object {{our name: their name}}")
        names: dict[str, tuple[str, bool]] = {}
        prefixes: dict[str, str] = {}
        ignored = content.pop("ignore", [])
        if not isinstance(ignored, list) or not all(isinstance(pattern, str) for pattern in ignored):
            raise CheckpointError(f'the key map {path} has "ignore": {_short(ignored)}; expected a list, as ["0.bn.*"]')
        for name, value in content.items():
            whole = isinstance(value, dict)
            key, transpose = (value.get("key"), bool(value.get("transpose"))) if whole else (value, False)
            start = name.removesuffix("*")
            if name.endswith("*") and isinstance(key, str) and key.endswith("*") and not whole:
                if any(ours.startswith(start) for ours in SCAN_KEYS):
                    prefixes[start] = key[:-1]
                    continue
            elif name in SCAN_KEYS and isinstance(key, str):
                names[name] = (key, transpose)
                continue
            raise CheckpointError(
                f"the key map {path} has '{name}': {_short(value)}; our names are {', '.join(SCAN_KEYS)}"
            )
        return cls(names, prefixes, tuple(ignored))


@dataclass(frozen=True)
class Found:
    """What was found: our name → tensor, our name → their name, and their parameters that nothing took."""

    state: dict[str, Tensor]
    keys: dict[str, str]
    left: dict[str, Tensor]
    ignored: list[str]


class _Ambiguous(Exception):  # noqa: N818
    """Several parameters could be ours: our name, and theirs."""

    def __init__(self, name: str, candidates: list[str]) -> None:
        super().__init__(name)
        self.name, self.candidates = name, candidates


def find_parameters(path: Path, theirs: Mapping[str, Tensor], key_map: KeyMap, is_list: bool) -> Found:
    """Our parameters among theirs, as far as they are there.

    is_list: names begin with a state dict's number, as in `SCAN_KEYS`. Raises CheckpointError if an "ignore" pattern
    matches nothing, or if several parameters could be one of ours, with the rule that would choose.
    """
    left = dict(theirs)
    ignored = []
    for pattern in key_map.ignored:
        matched = [name for name in left if fnmatchcase(name, pattern) or fnmatchcase(name, without_wrappers(pattern))]
        if not matched:
            raise CheckpointError(f'{path} has nothing that "ignore": "{pattern}" matches; it has {listed(left)}')
        ignored += matched
        for name in matched:
            del left[name]
    # Parameters that named rules take are not candidates for other names.
    wanted = {name: key if key in left else without_wrappers(key) for name, (key, _) in key_map.names.items()}
    keys = {name: key for name, key in wanted.items() if key in left}
    free = {name: tensor for name, tensor in left.items() if name not in keys.values()}
    try:
        for name, default in SCAN_KEYS.items():
            if name in key_map.names:
                continue
            key = _by_prefix(name, free, key_map) or (default if is_list and default in free else None)
            if key is None and not any(name.startswith(prefix) for prefix in key_map.prefixes):
                key = _only(name, free)
            if key is not None:
                keys[name] = key
    except _Ambiguous as error:
        raise CheckpointError(_choice(path, error)) from None
    state = {}
    for name, key in keys.items():
        tensor = left[key]
        state[name] = tensor.T if key_map.names.get(name, ("", False))[1] and tensor.ndim == 2 else tensor
        if name in VECTORS and sum(size != 1 for size in tensor.shape) <= 1:
            state[name] = tensor.reshape(-1)  # an nn.Linear(d, 1), in either orientation
    return Found(state, keys, {name: tensor for name, tensor in left.items() if name not in keys.values()}, ignored)


def looked_for(name: str, key_map: KeyMap, is_list: bool) -> str:
    """Where a parameter was looked for, for a message."""
    if name in key_map.names:
        return key_map.names[name][0]
    for prefix, theirs in key_map.prefixes.items():
        if name.startswith(prefix):
            return f"{theirs}{name.removeprefix(prefix)}"
    return SCAN_KEYS[name] if is_list else SCAN_KEYS[name][2:]


def listed(names: Iterable[str]) -> str:
    """Some names in a message."""
    found = sorted(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(name[:80] for name in found[:_SHOWN]) + more or "nothing else"


def _by_prefix(name: str, free: Mapping[str, Tensor], key_map: KeyMap) -> str | None:
    """By the longest prefix rule that fits: their prefix, and then our name's rest or the usual spelling of it."""
    for ours in sorted(key_map.prefixes, key=len, reverse=True):
        if not name.startswith(ours):
            continue
        raw = key_map.prefixes[ours]
        theirs = raw if any(key.startswith(raw) for key in free) else without_wrappers(raw)
        within = {key.removeprefix(theirs): key for key in free if key.startswith(theirs)}
        rest = name.removeprefix(ours)
        if rest in within:
            return within[rest]
        if ours in ("", *_ENCODERS) and (found := _only(name, within)) is not None:
            return within[found]
        return None
    return None


def _only(name: str, free: Collection[str]) -> str | None:
    """The only parameter whose name ends as ours does in any code base. Raises _Ambiguous if there are several."""
    if name.startswith(_GRU):
        gate = name.removeprefix(_GRU)
        found = [key for key in free if key == gate or key.endswith(f".{gate}")]
    elif name == "text_encoder.embedding.weight":
        found = [key for key in free if any(f".{key}".endswith(f".{module}.weight") for module in _EMBEDDINGS)]
    else:
        tail = SCAN_KEYS[name][2:]
        tails = (f".{tail}", f".{tail}.weight") if name in VECTORS else (f".{tail}",)  # an nn.Linear(d, 1)'s
        found = [key for key in free if f".{key}".endswith(tails)]
    if len(found) > 1:
        raise _Ambiguous(name, sorted(found))
    return found[0] if found else None


def _choice(path: Path, error: _Ambiguous) -> str:
    """The message for several candidates, with the rule that chooses the first."""
    if error.name == "text_encoder.embedding.weight":
        return (
            f"{path} is not a CAAN: it has several embeddings, {listed(error.candidates)}; CAAN's text encoder has one,"
            " so no key map can help"
        )
    module, last = error.name.rpartition(".")[::2]
    first = error.candidates[0]
    is_module = first.endswith(f".{last}")
    rule = {f"{module}.*": f"{first.removesuffix(last)}*"} if is_module else {error.name: first}
    return (
        f"{path}: {error.name} could be {' or '.join(error.candidates[:4])}; choose with --key-map MAP.json, which"
        f" holds, for example, {json.dumps(rule)}"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
