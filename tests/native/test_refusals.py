"""Arrays that do not match: the message names the array and the problem."""

from dataclasses import replace

import numpy as np
import pytest


def refused(case, module, error, **changed):
    """The message for the case with these arrays replaced; checks that nothing is written."""
    scores = changed.pop("scores", np.full((3, 2), -7, np.float32))
    with pytest.raises(error) as caught:
        case.scorer(module).score(*replace(case, **changed).states(), scores)
    assert (scores == -7).all()
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float64", "int32", "complex64", "bool8"])
def test_other_dtypes(caan_native, case, dtype):
    name = dtype if dtype != "bool8" else "bool"
    known = "float32, float16, uint16 (bfloat16) or uint8 (int8 with scales)"
    message = refused(case, caan_native, TypeError, image_states=np.zeros(case.image_states.shape, name))
    assert message == f"image_states must be {known}, not {dtype}"
    message = refused(case, caan_native, TypeError, text_states=np.zeros(case.text_states.shape, name))
    assert message == f"text_states must be {known}, not {dtype}"


def test_lengths_of_another_dtype(caan_native, case):
    message = refused(case, caan_native, TypeError, image_lengths=case.image_lengths.astype(np.int32))
    assert message == "image_lengths must be int64, not int32"


def test_other_shapes(caan_native, case):
    message = refused(
        case, caan_native, ValueError, image_states=case.image_states[None], image_starts=np.zeros(3, int)
    )
    assert message == "image_states must have the shape (rows, 2D + 3d), not (1, 3, 5, 51)"
    message = refused(case, caan_native, ValueError, text_lengths=case.text_lengths[None])
    assert message == "text_lengths must have the shape (items,), not (1, 2)"
    message = refused(case, caan_native, ValueError, text_states=case.text_states[..., :-1].copy())
    assert message == "text_states have 38 columns, and the model's D + 3d = 39"
    message = refused(case, caan_native, ValueError, image_lengths=case.image_lengths[:2])
    assert message == "image_starts has 3 numbers, and image_lengths has 2"


@pytest.mark.parametrize(
    ("start", "length"),
    [(10, 0), (10, -1), (10, 6), (15, 1), (16, 1), (2**63 - 1, 1), (10, 2**63 - 1), (-1, 2), (-(2**63), -(2**63))],
)
def test_items_that_are_not_within_the_rows(caan_native, case, start, length):
    starts, lengths = np.array([0, 5, start]), case.image_lengths.copy()
    lengths[2] = length
    message = refused(case, caan_native, ValueError, image_starts=starts, image_lengths=lengths)
    assert message == f"image 2 has length {length} from row {start} on, and image_states has the rows 0..14"


def test_starts_that_do_not_fit(caan_native, case):
    message = refused(case, caan_native, TypeError, text_starts=np.array([0.0, 4.0]))
    assert message == "text_starts must be int64, not float64"
    message = refused(case, caan_native, ValueError, text_starts=np.array([[0, 4]]))
    assert message == "text_starts must have the shape (items,), not (1, 2)"
    message = refused(case, caan_native, TypeError, text_starts=np.array([0, 9, 4, 9])[::2])
    assert message == "text_starts must be C-contiguous; numpy.ascontiguousarray makes it so"


def test_arrays_with_gaps(caan_native, case):
    starts = {"image_starts": np.zeros(3, int), "text_starts": np.zeros(2, int)}
    every_second = case.image_states.reshape(15, 51)[::2]
    message = refused(case, caan_native, TypeError, image_states=every_second, **starts)
    assert message == "image_states must be C-contiguous; numpy.ascontiguousarray makes it so"
    by_columns = np.asfortranarray(case.text_states.reshape(8, 39))
    message = refused(case, caan_native, TypeError, text_states=by_columns, **starts)
    assert message.startswith("text_states must be C-contiguous")


def test_scores_that_do_not_fit(caan_native, case):
    message = refused(case, caan_native, ValueError, scores=np.full((2, 3), -7, np.float32))
    assert message == "scores has the shape (2, 3), and these images and captions make (3, 2)"
    message = refused(case, caan_native, TypeError, scores=np.full((3, 2), -7, np.float64))
    assert message == "scores must be float32, not float64"
    message = refused(case, caan_native, TypeError, scores=np.full((3, 4), -7, np.float32)[:, ::2])
    assert message.startswith("scores must be C-contiguous")
    fixed = np.full((3, 2), -7, np.float32)
    fixed.flags.writeable = False
    refused(case, caan_native, TypeError, scores=fixed)


def test_values_that_are_not_arrays(caan_native, case):
    refused(case, caan_native, TypeError, image_states=[[1.0]])
    refused(case, caan_native, TypeError, text_lengths=None)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"w_v": np.ones(8, np.float32)}, ValueError, "w_v has 8 numbers, and attention_dim is 9"),
        ({"w_u": np.ones(9)}, TypeError, "w_u must be float32, not float64"),
        ({"w_u": np.ones((9, 1), np.float32)}, ValueError, "w_u must have the shape (attention_dim,), not (9, 1)"),
        ({"embed_dim": 0}, ValueError, "a dimension is 0"),
    ],
)
def test_models_that_do_not_fit(caan_native, case, changed, error, message):
    with pytest.raises(error) as caught:
        replace(case, **changed).scorer(caan_native)
    assert str(caught.value) == message


def test_precisions_and_threads(caan_native, case):
    with pytest.raises(ValueError, match="precision must be 'fp32' or 'bf16', not 'fp8'"):
        case.scorer(caan_native, "fp8")
    with pytest.raises(ValueError, match="no threads"):
        case.scorer(caan_native, threads=0)
    with pytest.raises(TypeError):
        case.scorer(caan_native, threads=-1)
