"""On a GPU only: the paper's size, autotuned blocks, nothing left in the GPU's memory (`make test-gpu`).

On a GPU the other tests of this folder run the kernel there too, and are marked `gpu` with these.
"""

import pytest
import torch

from caan.model.caan import CAAN, CaanConfig
from caan.runtime.backends.triton.launch import choices, score_states

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a PyTorch built for CUDA"),
]

D = 1024
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def tile(images, captions, regions, words, dtype):
    """Arguments of `score_states`: a real model's state width, unequal lengths."""
    torch.manual_seed(0)
    states = [
        torch.randn(items, length, columns * D, dtype=dtype, device="cuda") / D**0.5
        for items, length, columns in ((images, regions, 5), (captions, words, 4))
    ]
    lengths = [torch.randint(1, s.shape[1] + 1, (len(s),), device="cuda") for s in states]
    weights = torch.randn(2, D, device="cuda") / D**0.5
    return states[0], lengths[0], states[1], lengths[1], weights, 4.0


def expected(image_states, image_lengths, text_states, text_lengths, weights, scale):
    """The equations in float64."""
    model = CAAN(CaanConfig(1, D, 1, D, 1, attention_scale=scale)).double().cuda()
    with torch.inference_mode():
        model.scorer.w_v.copy_(weights[0])
        model.scorer.w_u.copy_(weights[1])
        return model.score_states(image_states.double(), image_lengths, text_states.double(), text_lengths)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("regions", "words"), [(36, 14), (10, 90), (100, 20), (36, 128)])
def test_the_papers_size(dtype, regions, words):
    arguments = tile(17, 33, regions, words, dtype)
    assert (score_states(*arguments) - expected(*arguments)).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_every_choice_of_blocks_gives_the_same_scores(dtype):
    arguments = tile(5, 21, 36, 14, dtype)
    exact = expected(*arguments)
    for choice in choices(dtype, 36, 14):
        assert (score_states(*arguments, choice=choice) - exact).abs().max() <= TOLERANCE[dtype], choice


def test_nothing_but_the_scores_is_written():
    arguments = tile(64, 512, 36, 14, torch.float16)
    score_states(*arguments)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    scores = score_states(*arguments)
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - before <= scores.numel() * 4 + 512
