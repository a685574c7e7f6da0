"""Scores against float64, whatever the shapes and the arrays' memory layout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=6)


@pytest.fixture
def golden_case(request, case):
    """The states of a golden file's encoded regions and words."""
    file = np.load(request.param)
    V, U = file["regions"], file["words"]
    Q = {number: file[f"param_Q{number}"] for number in range(1, 7)}
    return file["scores"], replace(
        case,
        embed_dim=V.shape[2],
        attention_dim=Q[1].shape[1],
        attention_scale=float(file["attention_scale"]),
        w_v=file["param_w_v"].astype(np.float32),
        w_u=file["param_w_u"].astype(np.float32),
        image_states=np.concatenate([V, V @ file["param_K"], V @ Q[1], V @ Q[2], V @ Q[6]], 2).astype(np.float32),
        image_lengths=file["image_lengths"].astype(np.int64),
        text_states=np.concatenate([U, U @ Q[3], U @ Q[4], U @ Q[5]], 2).astype(np.float32),
        text_lengths=file["text_lengths"].astype(np.int64),
    )


@pytest.mark.parametrize("golden_case", GOLDEN, ids=lambda path: path.stem, indirect=True)
def test_the_golden_cases(caan_native, golden_case):
    expected, case = golden_case
    largest = max(1.0, np.abs(expected).max())  # without normalization scores are not in -1..1
    assert np.abs(case.scores(caan_native) - expected).max() <= 2e-6 * largest
    assert np.abs(case.scores(caan_native, "bf16") - expected).max() <= 1e-2 * largest


def test_there_are_golden_cases():
    assert len(GOLDEN) == 4


@given(
    seed=st.integers(0, 1000),
    embed_dim=st.integers(1, 70),
    attention_dim=st.integers(1, 70),
    attention_scale=st.sampled_from([-50.0, 0.0, 1.0, 4.0, 50.0]),
    image_lengths=lengths,
    text_lengths=lengths,
    threads=st.integers(1, 3),
)
def test_any_shapes_against_float64(caan_native, draw, threads, **shapes):
    case = draw(**shapes)
    expected = case.exact()
    assert np.abs(case.scores(caan_native, threads=threads) - expected).max() <= 2e-6
    assert np.abs(case.scores(caan_native, "bf16", threads) - expected).max() <= 2e-2


@given(seed=st.integers(0, 1000), image_lengths=lengths, text_lengths=lengths, order=st.randoms())
def test_a_score_depends_neither_on_padding_nor_on_other_items_nor_on_their_order(caan_native, draw, order, **shapes):
    case = draw(**shapes)
    images, texts = list(range(len(case.image_lengths))), list(range(len(case.text_lengths)))
    order.shuffle(images)
    order.shuffle(texts)
    wider = np.pad(case.image_states, ((0, 0), (0, 3), (0, 0)), constant_values=np.nan)
    mixed = replace(
        case,
        image_states=wider[images],
        image_lengths=case.image_lengths[images],
        text_states=case.text_states[texts],
        text_lengths=case.text_lengths[texts],
    )
    assert np.array_equal(mixed.scores(caan_native), case.scores(caan_native)[np.ix_(images, texts)])


@given(seed=st.integers(0, 1000), image_lengths=lengths, text_lengths=lengths, order=st.randoms())
def test_items_may_be_anywhere_in_the_rows_and_overlap(caan_native, draw, order, **shapes):
    case = draw(**shapes)
    images = np.concatenate([item[:length] for item, length in zip(case.image_states, case.image_lengths, strict=True)])
    starts, item_lengths = np.cumsum(case.image_lengths) - case.image_lengths, case.image_lengths
    # The end of each item, too, as a separate item.
    starts, item_lengths = np.append(starts, starts + item_lengths // 2), np.append(item_lengths, -(-item_lengths // 2))
    some = order.sample(range(len(starts)), len(starts))
    packed = replace(case, image_states=images, image_starts=starts[some], image_lengths=item_lengths[some])
    ends = [item[length // 2 :] for item, length in zip(case.image_states, case.image_lengths, strict=True)]
    alone = [
        replace(case, image_states=item[None, :length], image_lengths=np.array([length])).scores(caan_native)
        for item, length in zip([*case.image_states, *ends], item_lengths, strict=True)
    ]
    assert np.array_equal(packed.scores(caan_native), np.concatenate(alone)[some])


def test_float16_states_are_read_in_place(caan_native, case):
    halves = replace(
        case, image_states=case.image_states.astype(np.float16), text_states=case.text_states.astype(np.float16)
    )
    assert np.abs(halves.scores(caan_native) - halves.exact()).max() <= 2e-6
    mixed = replace(case, text_states=halves.text_states)
    assert np.abs(mixed.scores(caan_native) - mixed.exact()).max() <= 2e-6


def unaligned(array):
    """The same at an odd address."""
    memory = np.empty(array.nbytes + 1, np.uint8)
    result = memory[1:].view(array.dtype).reshape(array.shape)
    result[:] = array
    assert not result.flags.aligned
    return result


def read_only(array):
    result = array.copy()
    result.flags.writeable = False
    return result


@pytest.mark.parametrize("made", [unaligned, read_only])
def test_inputs_may_be_unaligned_or_read_only(caan_native, case, made):
    moved = replace(case, **{name: made(value) for name, value in vars(case).items() if isinstance(value, np.ndarray)})
    assert np.array_equal(moved.scores(caan_native), case.scores(caan_native))


def test_inputs_may_be_memory_mapped(caan_native, case, tmp_path):
    np.save(tmp_path / "states.npy", case.image_states)
    mapped = replace(case, image_states=np.load(tmp_path / "states.npy", mmap_mode="r"))
    assert np.array_equal(mapped.scores(caan_native), case.scores(caan_native))


def test_inputs_are_not_copied_nor_changed(caan_native, case):
    before = [array.copy() for array in case.states()]
    case.scores(caan_native)
    for array, copy in zip(case.states(), before, strict=True):
        assert np.array_equal(array, copy, equal_nan=array.dtype.kind == "f")


def test_a_scorer_keeps_its_weights(caan_native, case):
    expected = case.scores(caan_native)
    scorer = case.scorer(caan_native)
    case.w_v[:], case.w_u[:] = np.nan, np.nan
    actual = np.empty_like(expected)
    scorer.score(*case.states(), actual)
    assert np.array_equal(actual, expected)


def test_no_items_make_no_scores(caan_native, case):
    none = replace(case, image_states=case.image_states[:0], image_lengths=case.image_lengths[:0])
    assert none.scores(caan_native).shape == (0, 2)


def test_the_instruction_set_is_named(caan_native, case):
    assert case.scorer(caan_native).instruction_set
    assert caan_native.has_native_bfloat16() in {False, True}
