"""States in bfloat16 and int8 against float64: read exactly as stored, and as close as their rounding allows."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caan.runtime.galleries.rows import SMALL_DTYPES, decoded, encoded

lengths = st.lists(st.integers(1, 40), min_size=1, max_size=2)


def widths(case):
    """Columns of an image's and of a caption's matrices."""
    D, d = case.embed_dim, case.attention_dim
    return (D, D, d, d, d), (D, d, d, d)


def stored(case, dtype):
    """(the case with its states as a gallery stores them, the case with the numbers that these stand for)"""
    images, texts = (np.nan_to_num(s) for s in (case.image_states, case.text_states))
    as_stored, numbers = [], []
    for states, columns in zip((images, texts), widths(case), strict=True):
        rows = encoded(states.reshape(-1, states.shape[-1]), dtype, columns)
        as_stored.append(rows.reshape(*states.shape[:2], -1))
        numbers.append(decoded(as_stored[-1], columns))
    return (
        replace(case, image_states=as_stored[0], text_states=as_stored[1]),
        replace(case, image_states=numbers[0], text_states=numbers[1]),
    )


def unaligned_and_read_only(array):
    memory = np.empty(array.nbytes + 1, np.uint8)
    result = memory[1:].view(array.dtype).reshape(array.shape)
    result[:] = array
    result.flags.writeable = False
    return result


def first_order_error(case, dtype):
    """A bound, to first order, for how far rounding the states moves each score (images, captions).

    A score's derivative by each number of the two states, times the most by which that number moves: in int8 by half a
    scale, max |x| of its row and matrix / 254; in bfloat16 by 2^-8 of itself.
    """
    pairs = [
        [
            _first_order_error(case, dtype, image[:n], text[:m])
            for text, m in zip(case.text_states, case.text_lengths, strict=True)
        ]
        for image, n in zip(case.image_states, case.image_lengths, strict=True)
    ]
    return np.array(pairs)


def _first_order_error(case, dtype, image, text):
    states = [torch.tensor(state, dtype=torch.float64, requires_grad=True) for state in (image, text)]
    matrices = [torch.split(state, columns, 1) for state, columns in zip(states, widths(case), strict=True)]
    (V, VK, VQ1, VQ2, VQ6), (U, UQ3, UQ4, UQ5) = matrices
    scaled = case.attention_scale * torch.tanh(VK @ U.T)
    Hu, Hv = torch.softmax(scaled, 1), torch.softmax(scaled, 0)
    A, B = Hu / Hu.norm(dim=1, keepdim=True), Hv / Hv.norm(dim=0, keepdim=True)
    Zv, Zu = torch.tanh(VQ1 + A @ A.T @ VQ2 + Hu @ UQ3), torch.tanh(UQ4 + B.T @ B @ UQ5 + Hv.T @ VQ6)
    w_v, w_u = (torch.tensor(w, dtype=torch.float64) for w in (case.w_v, case.w_u))
    score = (torch.softmax(Zv @ w_v, 0) @ V) @ (torch.softmax(Zu @ w_u, 0) @ U)
    total = 0.0
    for derivatives, parts, columns in zip(torch.autograd.grad(score, states), matrices, widths(case), strict=True):
        for derivative, numbers in zip(torch.split(derivatives, columns, 1), parts, strict=True):
            by = numbers.abs() / 256 if dtype == "bfloat16" else numbers.abs().amax(1, keepdim=True) / 254
            total += float((derivative.abs() * by).detach().sum())
    return total


@pytest.mark.parametrize("dtype", SMALL_DTYPES)
@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    embed_dim=st.integers(1, 70),
    attention_dim=st.integers(1, 70),
    attention_scale=st.sampled_from([0.0, 1.0, 4.0]),
    image_lengths=lengths,
    text_lengths=lengths,
)
def test_any_shapes_against_float64(caan_native, draw, dtype, **shapes):
    case = draw(**shapes)
    as_stored, numbers = stored(case, dtype)
    moved = replace(
        as_stored,
        image_states=unaligned_and_read_only(as_stored.image_states),
        text_states=unaligned_and_read_only(as_stored.text_states),
    )
    scores = moved.scores(caan_native)
    # The numbers are those that were stored, and these close to the encoder's. Twice the bound, for the curvature.
    assert np.abs(scores - numbers.exact()).max() <= 2e-6
    assert (np.abs(scores - case.exact()) <= 2 * first_order_error(case, dtype) + 2e-6).all()


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.02), ("int8", 0.05)])
def test_the_bound_says_something(draw, dtype, most):
    assert first_order_error(draw(embed_dim=64, attention_dim=64), dtype).max() <= most


def test_one_side_may_be_stored_otherwise_than_the_other(caan_native, case):
    as_stored, numbers = stored(case, "int8")
    mixed = replace(case, image_states=as_stored.image_states)
    assert np.abs(mixed.scores(caan_native) - replace(case, image_states=numbers.image_states).exact()).max() <= 2e-6


def test_rows_of_other_widths(caan_native, case):
    as_stored, _ = stored(case, "int8")
    wrong = replace(as_stored, image_states=np.ascontiguousarray(as_stored.image_states[..., 1:]))
    with pytest.raises(ValueError, match=r"image_states have 70 columns, and the model's 2D \+ 3d \+ 20 = 71"):
        wrong.scores(caan_native)
