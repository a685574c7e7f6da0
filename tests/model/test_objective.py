"""The training objective against its definition, written out pair by pair."""

import pytest
import torch

from caan.model.objective import ranking_loss


def literal_loss(scores, images, margin, hardest):
    """The objective, pair by pair."""
    total = 0.0
    for i in range(len(images)):
        captions = [0.0]
        pictures = [0.0]
        for j in range(len(images)):
            if images[j] != images[i]:
                captions.append(max(0.0, margin - scores[i][i] + scores[i][j]))
                pictures.append(max(0.0, margin - scores[i][i] + scores[j][i]))
        total += max(captions) + max(pictures) if hardest else sum(captions) + sum(pictures)
    return total


@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("images", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 2, 2], [3, 3, 3, 3, 3, 3]])
def test_the_objective_is_the_literal_one(hardest, images):
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(6, 6, generator=generator, dtype=torch.float64) - 0.5
    expected = literal_loss(scores.tolist(), images, 0.3, hardest)
    assert float(ranking_loss(scores, torch.tensor(images), 0.3, hardest=hardest)) == pytest.approx(expected, abs=1e-12)


def test_captions_of_one_image_are_no_negatives_of_each_other():
    scores = torch.tensor([[0.1, 0.9], [0.9, 0.1]])
    assert float(ranking_loss(scores, torch.tensor([4, 4]))) == 0
    assert float(ranking_loss(scores, torch.tensor([4, 5]))) == pytest.approx(4.0)


def test_only_the_hardest_negative_pulls():
    scores = torch.tensor([[0.5, 0.45, 0.4], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]], requires_grad=True)
    ranking_loss(scores, torch.arange(3)).backward()
    assert scores.grad[0, 1] == 2  # the hardest caption of image 0, and the hardest image of caption 1
    assert scores.grad[0, 2] == 1  # the hardest image of caption 2, not the hardest caption of image 0
    assert (scores.grad[1:].tril(-1) == 0).all()
