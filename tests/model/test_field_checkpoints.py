"""The checkpoints of ../shared/field, in the forms of public code: all that load score as the first one does."""

import json
import runpy
import sys

import pytest
import torch

from caan.errors import CheckpointError
from caan.model.checkpoint import ScanOptions, load_checkpoint
from tests.conftest import SHARED

FIELD = SHARED / "field"
VOCABULARY = FIELD / "vocab" / "f30k_precomp_vocab.json"
SAME = ["flat", "flat_data_parallel", "state_dict", "bare", "numpy_scalars", "defaultdict", "unused_parameters"]
REFUSED = {
    "larger_embedding": ["8,481 words", "8,488 rows", "--allow-vocab-mismatch"],
    "one_directional": ["one-directional (no weight_ih_l0_reverse)", "no key map can help"],
    "no_scorer": ["no scorer (K, Q1 to Q6, w_v, w_u)", "no key map can help"],
}


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """load(name, …): the checkpoint of that name."""
    if not FIELD.is_dir():
        pytest.skip("needs ../shared/field, which is not part of the project")
    folder = tmp_path_factory.mktemp("field")
    arguments, sys.argv = sys.argv, ["make_checkpoints.py", str(folder)]
    try:
        runpy.run_path(str(FIELD / "make_checkpoints.py"), run_name="__main__")
    finally:
        sys.argv = arguments
    return lambda name, **options: load_checkpoint(folder / f"{name}.pth.tar", ScanOptions(VOCABULARY, **options))


@pytest.fixture(scope="module")
def scan(field):
    return field("scan")


def scores(model):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, 5, 24, generator=generator)
    tokens = torch.randint(1, 8481, (4, 6), generator=generator)
    return model(features, torch.tensor([5, 3, 4]), tokens, torch.tensor([6, 2, 3, 4]))


@pytest.mark.parametrize("name", SAME)
def test_the_same_scores(field, scan, name):
    loaded = field(name)
    assert torch.equal(scores(loaded.model), scores(scan.model))
    assert loaded.digest() == scan.digest()


def test_linear_layers_with_their_key_map(field, scan, tmp_path):
    rules = {f"scorer.Q{i}": {"key": f"2.q{i}.weight", "transpose": True} for i in range(1, 7)}
    rules["scorer.K"] = {"key": "2.affinity.weight", "transpose": True}
    rules |= {"scorer.w_v": "2.att_v.weight", "scorer.w_u": "2.att_u.weight"}
    (tmp_path / "map.json").write_text(json.dumps(rules))
    assert torch.equal(scores(field("linear_layers", key_map=tmp_path / "map.json").model), scores(scan.model))
    with pytest.raises(CheckpointError, match=r"scorer\.K \(looked for '2\.K'\).*--key-map"):
        field("linear_layers")


@pytest.mark.parametrize(
    ("name", "images", "texts", "scale"),
    [("no_imgnorm", False, True, 1.0), ("no_txtnorm", True, False, 1.0), ("opt_dict", False, False, 4.0)],
)
def test_each_norm_is_switched_alone(field, scan, name, images, texts, scale):
    model = field(name).model
    assert (model.config.normalize_images, model.config.normalize_texts) == (images, texts)
    assert model.config.attention_scale == scale
    # From the parameters of the first: only the switches differ.
    expected = field("scan").model
    expected.image_encoder.normalize, expected.text_encoder.normalize = images, texts
    expected.scorer.scale = scale
    assert torch.equal(scores(model), scores(expected))
    assert (scores(model) - scores(scan.model)).abs().max() > 0.01


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(field, name):
    with pytest.raises(CheckpointError) as error:
        field(name)
    assert [text for text in REFUSED[name] if text not in str(error.value)] == []
    assert "--key-map" not in str(error.value)


def test_nothing_is_assumed_silently(field, scan):
    (scale,) = [setting for setting in scan.settings if setting.name == "λ"]
    assert (scale.value, scale.source) == ("1", "default")
    assert scale.note.startswith("the file names none; its lambda_softmax is 9")
    assert scan.metrics == {"best_rsum": 432.1}
    ignored = {setting.name: setting.value for setting in field("unused_parameters").settings}["ignored"]
    assert ignored == "0.bn.num_batches_tracked"
