"""The training objective: hinge triplet ranking loss in both directions, over the pairs of one batch.

Source: the hardest negatives of Faghri et al., "VSE++", BMVC 2018, as CAAN uses them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_loss(scores: Tensor, images: Tensor, margin: float = 0.2, *, hardest: bool = True) -> Tensor:
    """Hinge loss of negatives within `margin` of their positives, summed over the batch and both directions.

    scores (B, B) float, image i with caption j, the positives on the diagonal; images (B,) int, each pair's image.
    Captions of the same image are not negatives of each other. `hardest`: count only each query's largest violation,
    else all. Returns a scalar.
    """
    positives = scores.diagonal()
    same = images[:, None] == images
    wrong_captions = (margin + scores - positives[:, None]).clamp_min(0).masked_fill(same, 0)  # rows: queries
    wrong_images = (margin + scores - positives).clamp_min(0).masked_fill(same, 0)  # columns: queries
    if hardest:
        return torch.cat([wrong_captions.amax(1), wrong_images.amax(0)]).sum()
    return (wrong_captions + wrong_images).sum()
