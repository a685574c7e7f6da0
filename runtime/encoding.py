"""Features and tokens → states, batched for the encoders and checked before they are stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..bundle import normalizes_images, state_widths
from ..data.mapped import read_rows
from ..errors import DataError
from ..tiling import chunks_by_length
from .backends.contract import Backend
from .casting import convert
from .galleries.description import Kind
from .galleries.gallery import Gallery
from .galleries.in_memory import new_states, offsets_of
from .galleries.rows import Dtype, encoded
from .gather import gather_states, matrix_widths
from .lists import ids_of

# Items per encoder call. The text encoder is recurrent and gains from a wide batch; one call's states stay small.
IMAGES_PER_CALL, CAPTIONS_PER_CALL = 32, 128

# Regions whose features reach this norm are refused: its square is at, or close to, the limit of float32, 3.4e38.
LARGEST_NORM = float(np.float32(1e19))
# Smaller features do not overflow, whatever the weights.
_HUGE = 1e9
# Tolerance on the length of a unit vector in float16.
_UNIT_ERROR = 0.01

# Positions of some items (n,) and their states padded to the longest (n, L, S).
Encoded = tuple[NDArray[np.int64], NDArray[np.floating]]


def encode_images(backend: Backend, features: NDArray[np.floating]) -> Iterator[Encoded]:
    """States of all images in features (N, R, F), a few images at a time; features may be memory-mapped.

    A region whose norm overflows or may overflow float32 gets a state of NaN; a runtime would return 0 or an
    unnormalized vector for it. Raises DataError if the features' file is truncated meanwhile.
    """
    for start in range(0, len(features), IMAGES_PER_CALL):
        with np.errstate(over="ignore"):  # values beyond float32 become infinity, and their states NaN
            chunk = np.ascontiguousarray(read_rows(features, start, start + IMAGES_PER_CALL), dtype=np.float32)
        states = backend.encode_images(chunk)
        overflown = _overflown(
            chunk, states[..., : backend.model.config["embed_dim"]], normalizes_images(backend.model.config)
        )
        if overflown is not None:
            states = np.where(overflown[..., None], states.dtype.type(np.nan), states)
        yield np.arange(start, start + len(chunk)), states


def _overflown(
    features: NDArray[np.float32], regions: NDArray[np.floating], is_normalized: bool
) -> NDArray[np.bool_] | None:
    """Which regions overflow in the encoder, (n, R); None if none does, the usual case.

    features (n, R, F); regions: the encoder's V (n, R, D).
    """
    is_huge = np.abs(features).max(axis=-1) >= _HUGE  # (n, R)
    if not is_huge.any():
        return None
    result: NDArray[np.bool_] = np.zeros_like(is_huge)
    result[is_huge] = np.linalg.norm(features[is_huge].astype(np.float64), axis=-1) >= LARGEST_NORM
    if is_normalized:
        # Below that norm, a large weight may still cause overflow. Then the length is not 1.
        length = np.linalg.norm(regions[is_huge].astype(np.float64), axis=-1)
        result[is_huge] |= ~(np.abs(length - 1) < _UNIT_ERROR)
    return result


def encode_tokens(backend: Backend, tokens: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> Iterator[Encoded]:
    """States of all captions, batched by similar length."""
    for items in chunks_by_length(lengths, CAPTIONS_PER_CALL):
        padded = np.zeros((len(items), int(lengths[items].max())), np.int64)
        for row, item in zip(padded, items, strict=True):
            row[: lengths[item]] = tokens[item]
        yield items, backend.encode_captions(padded, lengths[items])


def encode_gallery(
    backend: Backend,
    kind: Kind,
    lengths: NDArray[np.int64],
    batches: Iterable[Encoded],
    ids: Sequence[str] | None = None,
    folder: str | Path | None = None,
    bundle: str | None = None,
) -> Gallery:
    """A gallery built from an encoder's output. lengths (items,); states in memory, or memory-mapped in `folder`."""
    names = ids_of(ids, len(lengths))
    offsets = offsets_of(lengths)
    width = state_widths(backend.model.config)[kind]
    states = new_states(int(offsets[-1]), width, backend.state_dtype, folder)
    for batch in batches:
        place(states, offsets, batch, kind, names)
    return Gallery(kind, backend.model.encoders[kind], states, offsets, names, bundle)


def load_gallery(backend: Backend, gallery: Gallery) -> Gallery:
    """The same gallery in memory, with states as the scorer takes them."""
    width = state_widths(backend.model.config)[gallery.kind]
    states = new_states(int(gallery.offsets[-1]), width, backend.state_dtype, None)
    for start in range(0, len(gallery), IMAGES_PER_CALL):
        items = np.arange(start, min(start + IMAGES_PER_CALL, len(gallery)))
        padded, lengths = gather_states(backend, gallery, items)
        rows = states[gallery.offsets[start] : gallery.offsets[items[-1] + 1]]
        rows[:] = padded[np.arange(padded.shape[1]) < lengths[:, None]]
    gallery.confirm()
    return replace(gallery, states=states, compact=False, check=None)


def as_stored(backend: Backend, gallery: Gallery, dtype: Dtype, *, compact: bool) -> Gallery:
    """A gallery of the encoder's states as `caan index` would store it in bfloat16 or int8, in memory."""
    widths = matrix_widths(backend, gallery.kind, compact=compact)
    states = encoded(gallery.states[:, : sum(widths)], dtype, widths)
    return replace(gallery, states=states, compact=compact, check=None)


def place(
    states: NDArray[np.floating],
    offsets: NDArray[np.int64],
    batch: Encoded,
    kind: str,
    names: Sequence[str] | None = None,
    first: int = 0,
) -> None:
    """Copy padded states into states (rows, S), where item i is rows offsets[i]:offsets[i + 1].

    Columns beyond S are dropped. Raises DataError, naming item `first` + i, if a state is not finite in the dtype of
    `states`.
    """
    items, whole = batch
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
