"""PyTorch as the reference: the form used by research code, and the fastest form of the same model."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ..runtime import Gallery, Retriever
from ..runtime.backends.pytorch import TorchBackend
from .timing import seconds

SHARD = 128
_TILE_MEGABYTES = (1, 4, 16, 64, 256)


class ResearchScorer:
    """All-pairs scores as research code evaluates them: 128 × 128 shards of the plain equations.

    Every shard projects its regions and words again; only the encoders' output is kept per item.
    """

    def __init__(self, backend: TorchBackend, images: Gallery, captions: Gallery) -> None:
        self.module = backend.module
        D = int(backend.model.config["embed_dim"])
        self.regions, self.image_lengths = _encoder_output(images, D)
        self.words, self.text_lengths = _encoder_output(captions, D)

    @torch.inference_mode()
    def score_matrix(self) -> NDArray[np.float32]:
        """Scores (N, M) of all images with all captions."""
        starts = range(0, len(self.words), SHARD)
        rows = [torch.cat([self._shard(i, j) for j in starts], 1) for i in range(0, len(self.regions), SHARD)]
        scores: NDArray[np.float32] = torch.cat(rows).numpy()
        return scores

    def _shard(self, image: int, caption: int) -> torch.Tensor:
        i, j = slice(image, image + SHARD), slice(caption, caption + SHARD)
        scorer = self.module.scorer
        return scorer.attention(self.regions[i], self.image_lengths[i], self.words[j], self.text_lengths[j]).scores


def with_best_tile(retriever: Retriever, images: Gallery, captions: Gallery) -> Retriever:
    """The same retriever with the fastest of a few tile budgets, each warmed up and timed on these galleries."""
    trials = [Retriever(retriever.backend, megabytes << 20) for megabytes in _TILE_MEGABYTES]
    timings = []
    for trial in trials:
        trial.score_matrix(images, captions)
        timings.append(min(seconds(partial(trial.score_matrix, images, captions)) for _ in range(2)))
    return trials[int(np.argmin(timings))]


def _encoder_output(gallery: Gallery, D: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first D state columns, V or U, padded, and the lengths."""
    states, lengths = gallery.gather(np.arange(len(gallery)))
    return torch.from_numpy(states[:, :, :D].copy()), torch.from_numpy(lengths)
