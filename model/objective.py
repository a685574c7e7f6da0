"""The training objective: hinge triplet ranking in both directions, over the pairs of one batch.

Source: the hardest negatives of Faghri et al., "VSE++", BMVC 2018, as CAAN uses them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ranking_loss(scores: Tensor, images: Tensor, margin: float = 0.2, *, hardest: bool = True) -> Tensor:
    """By how much negatives come within `margin` of their positives, summed over the batch and both directions.

    scores (B, B) float, image i with caption j, the positives on the diagonal; images (B,) int, the image that each
    pair is of. Captions of the same image are no negatives of each other. `hardest`: of each query's violations only
    the largest counts, else their sum. Returns a scalar.
    """
    positives = scores.diagonal()
    same = images[:, None] == images
    wrong_captions = (margin + scores - positives[:, None]).clamp_min(0).masked_fill(same, 0)  # rows: queries
    wrong_images = (margin + scores - positives).clamp_min(0).masked_fill(same, 0)  # columns: queries
    if hardest:
        return torch.cat([wrong_captions.amax(1), wrong_images.amax(0)]).sum()
    return (wrong_captions + wrong_images).sum()
