"""w_v, w_u and λ of a bundle: as exported, and from invalid files."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caan.bundle import SCORER_WEIGHTS, open_bundle, write_manifest
from caan.errors import BundleError
from caan.model.checkpoint import load_checkpoint
from caan.runtime.backends.scorer_weights import attention_scale, scorer_weights


def rewrite(folder, content=None, **config):
    """The bundle with the weights' file replaced by these bytes (None: removed), and this config entry."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["config"] |= config
    if content is None:
        (folder / SCORER_WEIGHTS).unlink()
    else:
        (folder / SCORER_WEIGHTS).write_bytes(content)
    write_manifest(folder, manifest)
    return open_bundle(folder)


def as_file(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_they_are_the_checkpoints(tiny_folder):
    bundle, scorer = open_bundle(tiny_folder / "model.caan"), load_checkpoint(tiny_folder / "model.pt").model.scorer
    actual = scorer_weights(bundle)
    assert actual.dtype == np.float32 and actual.shape == (2, 7) and actual.flags.c_contiguous
    assert (actual[0] == scorer.w_v.detach().numpy()).all()
    assert (actual[1] == scorer.w_u.detach().numpy()).all()
    assert attention_scale(bundle) == 4.0


def test_the_manifest_lists_their_file(tiny_folder):
    assert SCORER_WEIGHTS in open_bundle(tiny_folder / "model.caan").manifest["files"]


def test_a_bundle_without_them_opens_and_says_how_to_get_them(tiny_bundle):
    with pytest.raises(BundleError, match=r"exported before .* export the checkpoint again: caan-export"):
        scorer_weights(rewrite(tiny_bundle))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((2, 7)), "does not hold float32"),
        (np.zeros((7, 2), np.float32), "does not hold float32"),
        (np.zeros(14, np.float32), "does not hold float32"),
        (np.zeros((2, 7), ">f4"), "does not hold float32"),
        (np.full((2, 7), np.nan, np.float32), "holds NaN or infinity"),
        (np.full((2, 7), -np.inf, np.float32), "holds NaN or infinity"),
        (np.array([{}]), "can't be read as an array"),
    ],
)
def test_another_array_is_refused(tiny_bundle, array, says):
    with pytest.raises(BundleError, match=f"{SCORER_WEIGHTS}.* {says}.*export the checkpoint again"):
        scorer_weights(rewrite(tiny_bundle, as_file(array)))


def test_fortran_order_is_converted(tiny_bundle):
    array = np.arange(14, dtype=np.float32).reshape(2, 7)
    actual = scorer_weights(rewrite(tiny_bundle, as_file(np.asfortranarray(array))))
    assert actual.flags.c_contiguous and (actual == array).all()


@given(st.binary(max_size=80), st.integers(0, 183))
def test_damaged_files_are_refused(tiny_bundle, damage, place):
    whole = as_file(np.ones((2, 7), np.float32))
    content = whole[:place] + damage + whole[place + 2 * len(damage) + 1 :]
    bundle = rewrite(tiny_bundle, content)
    try:
        assert scorer_weights(bundle).shape == (2, 7)
    except BundleError as error:
        assert "export the checkpoint again" in str(error)


@pytest.mark.parametrize("value", [None, "4", True, float("nan"), float("inf"), [1.0]])
def test_a_scale_that_is_not_a_number_is_refused(tiny_bundle, value):
    bundle = rewrite(tiny_bundle, b"", attention_scale=value)
    with pytest.raises(BundleError, match=r"has no valid 'config\.attention_scale'"):
        attention_scale(bundle)
