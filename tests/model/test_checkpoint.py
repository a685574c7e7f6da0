"""Checkpoints of both families load to the same model."""

import json
import warnings
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from caan.data.vocabulary import Vocabulary
from caan.errors import CaanWarning, CheckpointError
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import ScanOptions, load_checkpoint, save_checkpoint
from tests.conftest import scan_parts_of

CONFIG = CaanConfig(region_dim=6, embed_dim=5, word_dim=4, attention_dim=3, vocab_size=24, attention_scale=2.5)
SCORER = ["K", "Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "w_v", "w_u"]


@pytest.fixture
def model():
    torch.manual_seed(3)
    return CAAN(CONFIG).eval()


@pytest.fixture
def scan_parts(model):
    """The model's parameters in SCAN-family form: image, text and scorer state dicts."""
    return scan_parts_of(model.state_dict())


@pytest.fixture
def load_scan(tmp_path, vocabulary):
    """load_scan(parts, opt=…, key_map=…, …): save a SCAN-family checkpoint and load it."""

    def load(parts, opt=None, key_map=None, zipped=True, **options):
        vocabulary.save(tmp_path / "vocab.json")
        if key_map is not None:
            (tmp_path / "map.json").write_text(json.dumps(key_map))
            options["key_map"] = tmp_path / "map.json"
        content = {"epoch": 9, "model": parts, "best_rsum": 400.0, "opt": opt or Namespace(), "Eiters": 1_000}
        torch.save(content, tmp_path / "model.pth.tar", _use_new_zipfile_serialization=zipped)
        return load_checkpoint(tmp_path / "model.pth.tar", ScanOptions(tmp_path / "vocab.json", **options))

    return load


def scores(model):
    """Scores of two images with three captions, which identify parameters and switches."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 4, 6, generator=generator)
    tokens = torch.randint(1, 24, (3, 7), generator=generator)
    with torch.no_grad():
        return model(features, torch.tensor([4, 2]), tokens, torch.tensor([7, 3, 5]))


def assert_same(result, expected):
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(result[name], tensor), name


def test_what_is_saved_is_loaded(tmp_path, model, vocabulary):
    save_checkpoint(tmp_path / "model.pt", model, vocabulary, {"rsum": 321.0})
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert_same(loaded.model.state_dict(), model.state_dict())
    assert loaded.model.config == CONFIG
    assert loaded.vocabulary == vocabulary
    assert loaded.metrics == {"rsum": 321.0}
    torch.testing.assert_close(scores(loaded.model), scores(model))


def test_a_loaded_model_is_ready_for_inference(tmp_path, model, vocabulary):
    save_checkpoint(tmp_path / "model.pt", model.double().train(), vocabulary)
    loaded = load_checkpoint(tmp_path / "model.pt").model
    assert not loaded.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())


def test_the_file_is_the_documented_one(tmp_path, model, vocabulary):
    save_checkpoint(tmp_path / "model.pt", model, vocabulary)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert (content["format"], content["version"], content["tokenizer"]) == ("caan-checkpoint", 1, "whitespace")
    assert content["vocabulary"] == vocabulary.words
    assert content["config"] == CONFIG.as_dict()
    gru = [
        f"text_encoder.gru.{kind}_{gate}_l0{way}"
        for kind in ("weight", "bias")
        for gate in ("ih", "hh")
        for way in ("", "_reverse")
    ]
    encoders = ["image_encoder.fc.weight", "image_encoder.fc.bias", "text_encoder.embedding.weight", *gru]
    assert sorted(content["state_dict"]) == sorted([*encoders, *(f"scorer.{name}" for name in SCORER)])


def test_config_entries_of_a_later_version_are_ignored(tmp_path, model, vocabulary):
    save_checkpoint(tmp_path / "model.pt", model, vocabulary)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["config"]["dropout"] = 0.1
    torch.save(content, tmp_path / "model.pt")
    assert load_checkpoint(tmp_path / "model.pt").model.config == CONFIG


def test_the_old_torch_format(tmp_path, model, vocabulary):
    save_checkpoint(tmp_path / "new.pt", model, vocabulary)
    content = torch.load(tmp_path / "new.pt", weights_only=True)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_same(load_checkpoint(tmp_path / "old.pt").model.state_dict(), model.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_scan_checkpoint(load_scan, scan_parts, model, zipped):
    loaded = load_scan(scan_parts, zipped=zipped)
    assert_same(loaded.model.state_dict(), model.state_dict())
    assert loaded.model.config == CaanConfig(6, 5, 4, 3, 24, attention_scale=1.0)
    assert loaded.vocabulary.tokenizer == "whitespace"  # the file's


def test_a_scan_checkpoint_as_a_tuple_of_state_dicts_with_something_behind(load_scan, scan_parts, model):
    loaded = load_scan((*scan_parts, None))
    assert_same(loaded.model.state_dict(), model.state_dict())


def test_the_prefix_of_data_parallel(load_scan, scan_parts, model):
    parts = [{f"module.{name}": tensor for name, tensor in part.items()} for part in scan_parts]
    assert_same(load_scan(parts).model.state_dict(), model.state_dict())


def test_the_tokenizer_of_a_vocabulary_that_names_none_is_nltk(
    load_scan, scan_parts, tmp_path, vocabulary, monkeypatch
):
    monkeypatch.setattr(Vocabulary, "save", lambda self, path: path.write_text(json.dumps(self.words)))
    loaded = load_scan(scan_parts)
    assert loaded.vocabulary == replace(vocabulary, tokenizer="nltk")
    assert ("tokenizer", "nltk", "default") in [(s.name, s.value, s.source) for s in loaded.settings]


def test_a_tokenizer_that_never_produces_the_vocabularys_words(load_scan, scan_parts, vocabulary, monkeypatch):
    words = {f"{word}-{word}" if word.startswith("w") else word: number for word, number in vocabulary.words.items()}
    monkeypatch.setattr(Vocabulary, "save", lambda self, path: path.write_text(json.dumps(words)))
    with pytest.warns(CaanWarning, match=r"word-punct never produces 20 of .* words \(w0-w0, .*: --tokenizer"):
        loaded = load_scan(scan_parts, tokenizer="word-punct")
    (setting,) = [setting for setting in loaded.settings if setting.name == "tokenizer"]
    assert setting.source == "option" and "never produces 20 of" in setting.note  # what caan inspect shows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_scan(scan_parts)


def test_the_vocabularys_tokenizer_is_the_option(load_scan, scan_parts):
    assert load_scan(scan_parts, tokenizer="whitespace").vocabulary.tokenizer == "whitespace"


def test_parameters_of_other_names_and_transposed(load_scan, scan_parts, model):
    image, text, scorer = scan_parts
    kernel, projection = scorer.pop("K"), scorer.pop("Q3")
    scorer |= {"affinity.weight": kernel.T.contiguous(), "text_to_image": projection}
    key_map = {"scorer.K": {"key": "2.affinity.weight", "transpose": True}, "scorer.Q3": "2.text_to_image"}
    loaded = load_scan([image, text, scorer], key_map=key_map)
    assert_same(loaded.model.state_dict(), model.state_dict())


def test_a_transposed_parameter_that_is_not_square_has_to_be_declared(load_scan, scan_parts):
    image, text, scorer = scan_parts
    scorer["Q2"] = scorer["Q2"].T.contiguous()
    with pytest.raises(CheckpointError, match=r"scorer\.Q2 is \(3, 5\), expected \(5, 3\)"):
        load_scan([image, text, scorer])
    load_scan([image, text, scorer], key_map={"scorer.Q2": {"key": "2.Q2", "transpose": True}})


def test_a_scorer_kept_in_another_state_dict(load_scan, scan_parts, model):
    image, text, scorer = scan_parts
    key_map = {f"scorer.{name}": f"1.scorer.{name}" for name in SCORER}
    loaded = load_scan([image, text | {f"scorer.{name}": scorer[name] for name in SCORER}], key_map=key_map)
    assert_same(loaded.model.state_dict(), model.state_dict())


def test_no_imgnorm_switches_the_normalization_off(load_scan, scan_parts):
    normalized = load_scan(scan_parts, opt=Namespace(no_imgnorm=False)).model
    free = load_scan(scan_parts, opt=Namespace(no_imgnorm=True)).model
    assert (normalized.config.normalize_images, free.config.normalize_images) == (True, False)
    assert not torch.allclose(scores(normalized), scores(free))


def test_the_attention_scale_is_the_options_or_the_files_or_one(load_scan, scan_parts, model):
    def scale(**options):
        return load_scan(scan_parts, **options).model.config.attention_scale

    assert scale() == 1.0
    assert scale(opt=Namespace(attention_scale=9.0)) == 9.0
    assert scale(opt=Namespace(attention_scale=9.0), attention_scale=2.5) == 2.5
    torch.testing.assert_close(scores(load_scan(scan_parts, attention_scale=2.5).model), scores(model))


def test_a_vocabulary_smaller_than_the_embedding_has_to_be_allowed(tmp_path, model):
    small = Vocabulary.build(["dog"], min_count=1)
    save_checkpoint(tmp_path / "model.pt", model, small)
    with pytest.raises(CheckpointError, match=r"the vocabulary has 5 words, the embedding 24 rows"):
        load_checkpoint(tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt", ScanOptions(allow_vocab_mismatch=True))
    assert loaded.vocabulary == small


@pytest.mark.parametrize(("images", "texts"), [(True, True), (False, False), (True, False), (False, True)])
def test_both_norms_are_kept(tmp_path, model, vocabulary, images, texts):
    """One switch says both where they agree, in the version that older readers know."""
    config = replace(CONFIG, normalize_images=images, normalize_texts=texts)
    save_checkpoint(tmp_path / "model.pt", CAAN(config), vocabulary)
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["version"] == (1 if images == texts else 2)
    assert content["config"].get("normalize") == (images if images == texts else None)
    loaded = load_checkpoint(tmp_path / "model.pt").model
    assert loaded.config == config
    features, tokens = torch.randn(2, 3, 6), torch.randint(4, 24, (2, 3))
    regions, words = loaded.image_encoder(features), loaded.text_encoder(tokens, torch.tensor([3, 3]))
    for vectors, is_on in ((regions, images), (words, texts)):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(2, 3), atol=1e-5) == is_on
