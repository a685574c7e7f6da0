"""Pooling weights, and items pooled with their mean, against float64 and against each other."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=5)
shapes = {
    "seed": st.integers(0, 1000),
    "embed_dim": st.integers(1, 70),
    "attention_dim": st.integers(1, 70),
    "attention_scale": st.sampled_from([-50.0, 0.0, 1.0, 4.0]),
    "image_lengths": lengths,
    "text_lengths": lengths,
}


def attend(module, case, precision="fp32", threads=1):
    return case.scorer(module, precision, threads).attend(*case.states())


def pool_images(module, case, precision="fp32", threads=1):
    return case.scorer(module, precision, threads).pool_images(*case.states())


def pool_captions(module, case, precision="fp32", threads=1):
    images, texts = case.states()[:3], case.states()[3:]
    return case.scorer(module, precision, threads).pool_captions(*texts, *images)


def pooled(weights, states, embed_dim, axis):
    """Items (n, D) pooled with their mean weights, in float64."""
    return np.einsum("nr,nrd->nd", weights.mean(axis, np.float64), np.nan_to_num(states[..., :embed_dim]))


def some(array, which):
    return array[np.asarray(which, int)]


@given(threads=st.integers(1, 3), **shapes)
def test_weights_are_those_of_the_equations(caan_native, draw, threads, **shapes):
    case = draw(**shapes)
    expected = case.exact_weights()
    for precision, tolerance in [("fp32", 3e-6), ("bf16", 5e-2)]:
        found = attend(caan_native, case, precision, threads)
        for weights, exact in zip(found, expected, strict=True):
            assert weights.dtype == np.float32
            assert np.abs(weights - exact).max() <= tolerance
            assert np.abs(weights.sum(-1) - 1).max() <= 1e-6
            assert (weights[exact == 0] == 0).all()


@given(threads=st.integers(1, 3), precision=st.sampled_from(["fp32", "bf16"]), **shapes)
def test_items_are_pooled_with_their_mean_weights(caan_native, draw, threads, precision, **shapes):
    case = draw(**shapes)
    av, au = attend(caan_native, case, precision)
    images = pool_images(caan_native, case, precision, threads)
    captions = pool_captions(caan_native, case, precision, threads)
    assert np.abs(images - pooled(av, case.image_states, case.embed_dim, 1)).max() <= 2e-6
    assert np.abs(captions - pooled(au, case.text_states, case.embed_dim, 0)).max() <= 2e-6


@given(seed=st.integers(0, 1000), image_lengths=lengths, text_lengths=lengths, order=st.randoms())
def test_a_pooled_item_depends_neither_on_the_others_nor_on_threads(caan_native, draw, order, **shapes):
    case = draw(**shapes)
    images, captions = pool_images(caan_native, case, threads=2), pool_captions(caan_native, case, threads=3)
    which = order.sample(range(len(images)), order.randint(1, len(images)))
    fewer = replace(case, image_states=some(case.image_states, which), image_lengths=some(case.image_lengths, which))
    assert np.array_equal(pool_images(caan_native, fewer), images[which])
    which = order.sample(range(len(captions)), order.randint(1, len(captions)))
    fewer = replace(case, text_states=some(case.text_states, which), text_lengths=some(case.text_lengths, which))
    assert np.array_equal(pool_captions(caan_native, fewer), captions[which])


def test_float16_states_are_pooled_as_stored(caan_native, case):
    halves = replace(
        case, image_states=case.image_states.astype(np.float16), text_states=case.text_states.astype(np.float16)
    )
    wide = replace(
        case,
        image_states=halves.image_states.astype(np.float32),
        text_states=halves.text_states.astype(np.float32),
    )
    assert np.array_equal(pool_images(caan_native, halves), pool_images(caan_native, wide))
    assert np.array_equal(pool_captions(caan_native, halves), pool_captions(caan_native, wide))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("column", [0, 12, 24, 33, 42])  # V, VK, VQ1, VQ2, VQ6
def test_nan_in_an_image_makes_its_weights_nan(caan_native, case, precision, column):
    good = attend(caan_native, case, precision)
    case.image_states[0, 4, column] = np.nan
    for weights, before in zip(attend(caan_native, case, precision), good, strict=True):
        assert np.isnan(weights[0][before[0] > 0]).all()
        assert np.array_equal(weights[1:], before[1:])
    # Only au depends on VQ6.
    assert np.isnan(pool_images(caan_native, case, precision)[0]).any() == (column < 42)
    assert np.isnan(pool_captions(caan_native, case, precision)).any() == (column not in {0, 24, 33})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("column", [0, 12, 21, 30])  # U, UQ3, UQ4, UQ5
def test_nan_in_a_caption_makes_its_weights_nan(caan_native, case, precision, column):
    good = attend(caan_native, case, precision)
    case.text_states[0, 3, column] = np.nan
    for weights, before in zip(attend(caan_native, case, precision), good, strict=True):
        assert np.isnan(weights[:, 0][before[:, 0] > 0]).all()
        assert np.array_equal(weights[:, 1:], before[:, 1:])


def test_no_items_and_nothing_to_attend_to(caan_native, case):
    none = replace(case, image_states=case.image_states[:0], image_lengths=case.image_lengths[:0])
    av, au = attend(caan_native, none)
    assert (av.shape, au.shape) == ((0, 2, 0), (0, 2, 4))
    assert pool_images(caan_native, none).shape == (0, 12)
    with pytest.raises(ValueError, match="no images to attend to"):
        pool_captions(caan_native, none)
    none = replace(case, text_states=case.text_states[:0], text_lengths=case.text_lengths[:0])
    with pytest.raises(ValueError, match="no captions to attend to"):
        pool_images(caan_native, none)


def test_states_that_do_not_fit(caan_native, case):
    images, texts = case.states()[:3], case.states()[3:]
    scorer = case.scorer(caan_native)
    with pytest.raises(ValueError, match=r"image_states have 39 columns, and the model's 2D \+ 3d = 51"):
        scorer.pool_images(*texts, *texts)
    with pytest.raises(ValueError, match=r"text_states have 51 columns, and the model's D \+ 3d = 39"):
        scorer.pool_captions(*images, *images)
    with pytest.raises(TypeError, match=r"image_states must be float32, float16, .* not float64"):
        scorer.attend(images[0].astype(float), *images[1:], *texts)
