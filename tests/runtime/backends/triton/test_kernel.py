"""The kernel against float64: on a GPU, or in Triton's interpreter."""

from pathlib import Path

import numpy as np
import pytest
import torch

# May be missing on a minimal GPU machine (make gpu-record).
pytest.importorskip("hypothesis")
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caan.model.caan import CAAN, CaanConfig
from caan.runtime.backends.triton.kernel import score_kernel
from caan.runtime.backends.triton.launch import Choice, TooLargeError, _tuned, choices, region_parts, score_states

GOLDEN = Path(__file__).parents[3] / "golden"
TOLERANCE = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2}
BLOCKS = [Choice(1, 16, 16, 4, 1), Choice(2, 32, 16, 4, 2, images=2), Choice(4, 16, 32, 4, 1, split=False)]

# The interpreter's NumPy warns where exp(2x) is infinity, as intended.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")


class World:
    """States, lengths and weights, and their scores in float64."""

    def __init__(self, seed, images, regions, captions, words, D, d, scale=4.0, size=1.0, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return size * torch.randn(*shape, generator=generator, dtype=torch.float64) / D**0.25

        def lengths(items, most):
            return torch.randint(1, most + 1, (items,), generator=generator)

        self.image_states = normal(images, regions, 2 * D + 3 * d).to(dtype)
        self.text_states = normal(captions, words, D + 3 * d).to(dtype)
        self.image_lengths, self.text_lengths = lengths(images, regions), lengths(captions, words)
        self.weights = (normal(2, d) * d**-0.5).float()
        self.scale = scale

    @classmethod
    def golden(cls, path):
        """(world, its scores)."""
        case = np.load(path)
        weight = {name.removeprefix("param_"): case[name] for name in case.files}
        V, U = case["regions"], case["words"]
        world = cls.__new__(cls)
        image = np.concatenate([V, *(V @ weight[name] for name in ("K", "Q1", "Q2", "Q6"))], -1)
        text = np.concatenate([U, *(U @ weight[name] for name in ("Q3", "Q4", "Q5"))], -1)
        world.image_states, world.text_states = torch.from_numpy(image).float(), torch.from_numpy(text).float()
        world.image_lengths, world.text_lengths = (
            torch.from_numpy(case[f"{side}_lengths"]).long() for side in ("image", "text")
        )
        world.weights = torch.from_numpy(np.stack([weight["w_v"], weight["w_u"]])).float()
        world.scale = float(case["attention_scale"])
        return world, torch.from_numpy(case["scores"])

    def score(self, device, blocks=None, images=slice(None), captions=slice(None)):
        tensors = (
            self.image_states[images],
            self.image_lengths[images],
            self.text_states[captions],
            self.text_lengths[captions],
            self.weights,
        )
        return score_states(*(t.contiguous().to(device) for t in tensors), self.scale, blocks).cpu()

    def expected(self):
        d = self.weights.shape[1]
        D = self.text_states.shape[2] - 3 * d
        model = CAAN(CaanConfig(1, D, 1, d, 1, attention_scale=self.scale)).double()
        with torch.inference_mode():
            model.scorer.w_v.copy_(self.weights[0])
            model.scorer.w_u.copy_(self.weights[1])
            states = self.image_states.double(), self.image_lengths, self.text_states.double(), self.text_lengths
            return model.score_states(*states)


def difference(one, other):
    return float((one.double() - other.double()).abs().max())


sizes = st.tuples(*(st.integers(1, most) for most in (3, 40, 5, 40, 40, 40)))  # images, R, captions, T, D, d


@pytest.mark.slow
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("name", ["tiny", "tiny_scaled", "unnormalized", "medium"])
def test_golden_cases(device, name, blocks):
    world, scores = World.golden(GOLDEN / f"{name}.npz")
    assert difference(world.score(device, blocks), scores) <= 2e-6


@pytest.mark.slow
@settings(max_examples=12)
@given(st.integers(0, 2**31), sizes, st.sampled_from(BLOCKS))
@example(0, (1, 1, 1, 1, 1, 1), BLOCKS[0])
@example(0, (2, 36, 3, 14, 64, 64), BLOCKS[2])
@example(0, (3, 36, 3, 14, 64, 64), BLOCKS[1])
@example(0, (3, 33, 2, 17, 20, 9), Choice(1, 16, 16, 4, 1, images=2, split=False))
@example(0, (1, 90, 1, 50, 33, 17), BLOCKS[0])
def test_any_shapes_and_lengths(device, seed, shape, blocks):
    world = World(seed, *shape)
    assert difference(world.score(device, blocks), world.expected()) <= TOLERANCE[torch.float32]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_half_precisions(device, dtype, blocks):
    """R = 36 in one part and in two."""
    world = World(1, 3, 36, 5, 14, 64, 48, dtype=dtype)
    actual, expected = world.score(device, blocks), world.expected()
    assert difference(actual, expected) <= TOLERANCE[dtype]
    assert difference(actual, expected) > 0  # it does not silently compute in float32


@pytest.mark.parametrize("scale", [-50.0, 0.0, 50.0, 1000.0])
def test_extreme_attention_scales(device, scale):
    world = World(2, 3, 20, 4, 9, 24, 24, scale=scale)
    # Above 50, rounding H by 1e-7 shows in the scores.
    assert difference(world.score(device), world.expected()) <= max(2e-6, abs(scale) * 1e-7)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e3])
def test_tiny_and_huge_states(device, size):
    """Products in the range of denormals, and values where tanh is 1."""
    world = World(3, 2, 12, 3, 7, 20, 20, size=size)
    actual, expected = world.score(device), world.expected()
    assert torch.isfinite(actual).all()
    assert difference(actual, expected) <= 2e-6 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@settings(max_examples=6)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 20))
def test_values_in_padding_do_not_matter(device, seed, more_regions, more_words):
    world = World(seed, 2, 9, 3, 7, 20, 12)
    padded = World(seed, 2, 9, 3, 7, 20, 12)
    for side, more in (("image", more_regions), ("text", more_words)):
        states, lengths = getattr(world, f"{side}_states"), getattr(world, f"{side}_lengths")
        wider = torch.full((len(states), states.shape[1] + more, states.shape[2]), float("nan"))
        for item, length in enumerate(lengths):
            wider[item, :length] = states[item, :length]
        setattr(padded, f"{side}_states", wider)
    assert difference(padded.score(device), world.score(device)) <= 2e-6


@pytest.mark.slow
@settings(max_examples=3)
@given(st.integers(0, 2**31), st.sampled_from(BLOCKS))
def test_a_pair_alone_scores_as_it_does_among_others(device, seed, blocks):
    world = World(seed, 3, 11, 5, 8, 20, 12)
    together = world.score(device, blocks)
    for i in range(3):
        for j in range(5):
            alone = world.score(device, blocks, slice(i, i + 1), slice(j, j + 1))
            assert abs(float(alone - together[i, j])) <= 2e-6


@pytest.mark.slow
@settings(max_examples=6)
@given(st.integers(0, 2**31), st.permutations(range(3)), st.permutations(range(5)), st.sampled_from(BLOCKS))
def test_order_and_block_sizes_change_nothing(device, seed, images, captions, blocks):
    world = World(seed, 3, 11, 5, 8, 20, 12)
    shuffled = world.score(device, blocks, list(images), list(captions))
    assert difference(shuffled, world.score(device)[list(images)][:, list(captions)]) <= 2e-6


@pytest.mark.slow
@settings(max_examples=6)
@given(st.integers(0, 2**31), st.randoms())
def test_the_order_of_regions_changes_nothing(device, seed, random):
    world, shuffled = World(seed, 2, 20, 3, 8, 20, 12), World(seed, 2, 20, 3, 8, 20, 12)
    for image, length in enumerate(world.image_lengths.tolist()):
        order = random.sample(range(length), length)
        shuffled.image_states[image, :length] = world.image_states[image, order]
    assert difference(shuffled.score(device), world.score(device)) <= 2e-6


@pytest.mark.slow
def test_more_images_than_alternate(device):
    """Every program finds its own image and captions, whatever the counts."""
    for images, captions in ((1, 1), (16, 2), (17, 3)):
        world = World(4, images, 3, captions, 3, 4, 4)
        assert difference(world.score(device, BLOCKS[1]), world.expected()) <= 2e-6


@pytest.mark.parametrize("side", ["image", "text"])
def test_an_empty_item_scores_zero_and_does_not_affect_others(device, side):
    world = World(5, 3, 6, 5, 5, 12, 12)
    usual = world.score(device)
    getattr(world, f"{side}_lengths")[1] = 0
    actual = world.score(device)
    empty = actual[1] if side == "image" else actual[:, 1]
    assert (empty == 0).all()
    keep = [0, 2] if side == "image" else [0, 2, 3, 4]
    pick = (lambda x: x[keep]) if side == "image" else (lambda x: x[:, keep])
    assert difference(pick(actual), pick(usual)) <= 2e-6


@pytest.mark.parametrize(("images", "captions"), [(0, 3), (2, 0)])
def test_no_items(device, images, captions):
    world = World(6, images, 3, captions, 3, 8, 8)
    assert world.score(device).shape == (images, captions)


@pytest.mark.parametrize(("dtype", "regions", "words"), [(torch.float32, 512, 32), (torch.float16, 512, 33)])
def test_items_too_large_for_any_gpu_s_registers_are_refused(device, dtype, regions, words):
    with pytest.raises(TooLargeError):
        World(7, 1, regions, 1, words, 4, 4, dtype=dtype).score(device)


@pytest.mark.parametrize(
    ("regions", "parts"),
    [(1, (16, 0)), (16, (16, 0)), (17, (32, 0)), (32, (32, 0)), (33, (32, 16)), (36, (32, 16)), (48, (32, 16)),
     (49, (64, 0)), (65, (64, 16)), (81, (64, 32)), (97, (128, 0)), (130, (128, 16)), (200, (256, 0))],
)  # fmt: skip
def test_regions_are_padded_by_less_in_two_parts(regions, parts):
    assert region_parts(regions, split=True) == parts
    whole, none = region_parts(regions, split=False)
    assert none == 0 and whole // 2 < max(regions, 9) <= whole


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@given(st.integers(1, 256), st.integers(1, 32), st.integers(0, 3))
def test_there_is_a_choice_for_every_item(dtype, regions, words, captions):
    actual = choices(dtype, regions, words, 1 << captions)
    assert actual and all(choice.captions <= 1 << captions for choice in actual)


def test_the_fastest_choice_is_cached_per_size():
    """Triton's disk cache is keyed by these names and the choices, which sizes may share."""
    one, other = _tuned(torch.float16, 32, 16, 8), _tuned(torch.float16, 48, 16, 8)
    assert not {str(config) for config in one.configs} & {str(config) for config in other.configs}
    assert set(one.keys) == {"T_PAD", "D", "d"} <= set(score_kernel.arg_names)
