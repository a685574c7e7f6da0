"""Features and tokens → states, in batches that suit the encoders, each checked before it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..data.mapped import read_rows
from ..errors import DataError
from ..tiling import chunks_by_length
from .backend import Backend
from .states import convert

# Items per encoder call. The text encoder's recurrence gains from a wide batch; states of one call stay small.
IMAGES_PER_CALL, CAPTIONS_PER_CALL = 32, 128

# Positions of some items (n,), and their states padded to the longest, (n, L, S)
Encoded = tuple[NDArray[np.int64], NDArray[np.floating]]


def encode_images(backend: Backend, features: NDArray[np.floating]) -> Iterator[Encoded]:
    """States of all images of features (N, R, F), which may be memory-mapped, a few at a time.

    Raises DataError if their file is shortened meanwhile.
    """
    for start in range(0, len(features), IMAGES_PER_CALL):
        chunk = np.ascontiguousarray(read_rows(features, start, start + IMAGES_PER_CALL), dtype=np.float32)
        yield np.arange(start, start + len(chunk)), backend.encode_images(chunk)


def encode_tokens(backend: Backend, tokens: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> Iterator[Encoded]:
    """States of all captions, those of similar length together."""
    for items in chunks_by_length(lengths, CAPTIONS_PER_CALL):
        padded = np.zeros((len(items), int(lengths[items].max())), np.int64)
        for row, item in zip(padded, items, strict=True):
            row[: lengths[item]] = tokens[item]
        yield items, backend.encode_captions(padded, lengths[items])


def place(
    states: NDArray[np.floating],
    offsets: NDArray[np.int64],
    encoded: Encoded,
    kind: str,
    names: Sequence[str] | None = None,
    first: int = 0,
) -> None:
    """Put padded states where they belong: item i is rows offsets[i]:offsets[i + 1] of states (rows, S).

    Columns beyond S are left out. Raises DataError, naming item `first` + i, if a state is not finite in the dtype of
    `states`.
    """
    items, whole = encoded
    converted = convert(whole[..., : states.shape[1]], states.dtype)
    for item, padded, state in zip(items, whole, converted, strict=True):
        start, end = offsets[item], offsets[item + 1]
        states[start:end] = state[: end - start]
        if not np.isfinite(states[start:end]).all():
            name = f" ({names[item][:80]})" if names is not None else ""
            raise DataError(f"{kind} {first + item}{name} can't be encoded: {_reason(padded[: end - start])}")


def _reason(state: NDArray[np.floating]) -> str:
    if np.isfinite(state).all():
        return "its states are beyond float16; keep them as float32 (--dtype float32)"
    return "its features hold NaN, infinity or huge values; extract them again"
