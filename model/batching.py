"""Batches of captions with their images, as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Batches are cut from the captions of this many batches, sorted by length to minimise padding.
_SORTED_BATCHES = 8


def batches_of(lengths: NDArray[np.int64], size: int, seed: tuple[int, int]) -> list[NDArray[np.int64]]:
    """Indices of captions with lengths (M,), in shuffled batches of `size` captions of similar length."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    window = _SORTED_BATCHES * size
    groups = [order[start : start + window] for start in range(0, len(order), window)]
    order = np.concatenate([group[np.argsort(lengths[group], kind="stable")] for group in groups])
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def gather(
    features: NDArray[np.floating], lengths: NDArray[np.int64] | None, images: NDArray[np.int64], device: str
) -> tuple[Tensor, Tensor]:
    """The images' features, (B, R, F) float32 with zeros as padding, and regions, (B,), from a memory-mapped file.

    lengths (N,): regions of all images; None: all R.
    """
    gathered = np.array(features[images], dtype=np.float32)
    regions = np.full(len(images), gathered.shape[1], np.int64)
    if lengths is not None:
        regions = lengths[images]
        # A masked NaN would still be NaN.
        gathered[np.arange(gathered.shape[1]) >= regions[:, None]] = 0
    return torch.from_numpy(gathered).to(device), torch.from_numpy(regions).to(device)


def pad(captions: Sequence[list[int]], device: str) -> tuple[Tensor, Tensor]:
    """Tokens (B, T) and lengths (B,), int64."""
    lengths = torch.tensor([len(ids) for ids in captions])
    tokens = torch.zeros(len(captions), int(lengths.max()), dtype=torch.int64)
    for row, ids in zip(tokens, captions, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens.to(device), lengths.to(device)
