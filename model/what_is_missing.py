"""What a SCAN-family checkpoint lacks that no key map can supply, and how to leave out what it has too much of."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from .key_map import GATES, SCORER, Found, listed

_FORWARD, _RECURRENT = "text_encoder.gru.weight_ih_l0", "text_encoder.gru.weight_hh_l0"
_EMBEDDING = re.compile(r"(^|\.)\w*(embed|emb|glove|word2vec|w2v)\w*\.weight$", re.IGNORECASE)
_LAYER = re.compile(r"(^|\.)weight_ih_l([1-9][0-9]?)(_reverse)?$")
_NO_HELP = "no key map can help"


def check_kind_of_model(path: Path, found: Found, left: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for another kind of model than a CAAN, with what is missing or too much."""
    for check in (_recurrence, _embeddings, _scorer):
        if (problem := check(found, left)) is not None:
            raise CheckpointError(f"{path} is not a CAAN: {problem}")


def how_to_ignore(left: Collection[str], used: Collection[str]) -> str:
    """The entry of a key map that leaves these parameters out: a pattern for each module that has several."""
    patterns: list[str] = []
    for name in sorted(left):
        module = f"{name.rpartition('.')[0]}."
        several = sum(other.startswith(module) for other in left) > 1
        is_free = module != "." and not any(other.startswith(module) for other in used)
        pattern = f"{module}*" if several and is_free else name
        if pattern not in patterns:
            patterns.append(pattern)
    return json.dumps({"ignore": patterns[:20]})


def _recurrence(found: Found, left: Mapping[str, Tensor]) -> str | None:
    names = [*found.keys.values(), *left]
    if not any("weight_ih" in name or "weight_hh" in name for name in names):
        if any(name.startswith("text_encoder.gru.") for name in found.state) or _could_be(left, len(GATES)):
            return None
        return (
            f"it has no recurrent text encoder (no GRU's weight_ih_l0; it has {listed(names)}); CAAN's is a"
            f" bidirectional GRU over word embeddings, so {_NO_HELP}"
        )
    if layers := sorted({match[2] for name in names if (match := _LAYER.search(name))}):
        return f"its GRU has {int(layers[-1]) + 1} layers, CAAN's has one, so {_NO_HELP}"
    if _FORWARD not in found.state:
        return None
    rows = _shape(found.state.get(_RECURRENT))
    if rows is not None and rows[0] in (rows[1], 4 * rows[1]):
        kind = "an LSTM" if rows[0] == 4 * rows[1] else "a plain RNN"
        return f"its text encoder is {kind}; CAAN's is a bidirectional GRU, so {_NO_HELP}"
    if not any("reverse" in name for name in names) and not _could_be(left, len(GATES) // 2):
        return (
            "its GRU is one-directional (no weight_ih_l0_reverse); CAAN's text encoder is bidirectional, so"
            f" {_NO_HELP}: train with both directions (bi_gru)"
        )
    return None


def _embeddings(found: Found, left: Mapping[str, Tensor]) -> str | None:
    own = found.state.get("text_encoder.embedding.weight")
    rows = own.shape[0] if own is not None and own.ndim == 2 else None
    others = [
        name
        for name, tensor in left.items()
        if tensor.ndim == 2 and (_EMBEDDING.search(name) or (tensor.shape[0] == rows and rows > 3))
    ]
    if own is None or not others:
        return None
    shapes = ", ".join(f"{name} {tuple(left[name].shape)}" for name in sorted(others)[:3])
    return (
        f"it has a second embedding, {shapes}, beside {found.keys['text_encoder.embedding.weight']}"
        f" {tuple(own.shape)}; CAAN's text encoder has one, so {_NO_HELP}"
    )


def _scorer(found: Found, left: Mapping[str, Tensor]) -> str | None:
    if any(name.startswith("scorer.") for name in found.state) or _could_be_scorer(found, left):
        return None
    rest = f", only {listed(left)}" if left else ""
    return (
        f"it has an image and a text encoder but no scorer (K, Q1 to Q6, w_v, w_u){rest}; a SCAN without CAAN's"
        f" attention can't become one, so {_NO_HELP}"
    )


def _could_be(left: Mapping[str, Tensor], count: int) -> bool:
    """Whether as many parameters are left as are missing, so that a key map might name them."""
    return sum(tensor.ndim in (1, 2) for tensor in left.values()) >= count


def _could_be_scorer(found: Found, left: Mapping[str, Tensor]) -> bool:
    """Whether K (D, D) and Q1 to Q6 (D, d), in either orientation, could be among the parameters that are left."""
    if len(left) < len(SCORER):
        return False
    fc = _shape(found.state.get("image_encoder.fc.weight"))
    if fc is None:
        return True
    D = fc[0]
    shapes = [tuple(tensor.shape) for tensor in left.values() if tensor.ndim == 2 and D in tensor.shape]
    return (D, D) in shapes and len(shapes) >= len(SCORER) - 2


def _shape(tensor: Tensor | None) -> tuple[int, int] | None:
    return (tensor.shape[0], tensor.shape[1]) if tensor is not None and tensor.ndim == 2 else None
