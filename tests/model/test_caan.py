"""The model computes the equations: every golden case, in both forms and both precisions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from caan.model.caan import CAAN, CaanConfig

CASES = sorted((Path(__file__).parents[1] / "golden").glob("*.npz"))
SHARED_CASES = sorted((Path(__file__).parents[3] / "shared" / "golden").glob("*.npz"))


def load(path: Path, dtype: torch.dtype) -> tuple[CAAN, dict[str, torch.Tensor]]:
    case = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    vocab_size, word_dim = case["param_embedding"].shape
    embed_dim, region_dim = case["param_fc_weight"].shape
    config = CaanConfig(
        region_dim=region_dim,
        embed_dim=embed_dim,
        word_dim=word_dim,
        attention_dim=len(case["param_w_v"]),
        vocab_size=vocab_size,
        attention_scale=float(case["attention_scale"]),
        normalize_images=bool(case["normalize"]),
        normalize_texts=bool(case["normalize"]),
    )
    names = {
        "image_encoder.fc.weight": "fc_weight",
        "image_encoder.fc.bias": "fc_bias",
        "text_encoder.embedding.weight": "embedding",
        **{f"scorer.{name}": name for name in ("K", "Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "w_v", "w_u")},
    }
    for torch_name, golden_name in (("weight", "w"), ("bias", "b")):
        for gate in ("ih", "hh"):
            for suffix, direction in (("", "f"), ("_reverse", "b")):
                names[f"text_encoder.gru.{torch_name}_{gate}_l0{suffix}"] = f"{golden_name}_{gate}_{direction}"
    model = CAAN(config).double()
    model.load_state_dict({ours: case[f"param_{theirs}"] for ours, theirs in names.items()})
    return model.to(dtype).requires_grad_(False), case


def inputs_of(case: dict[str, torch.Tensor], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    return case["features"].to(dtype), case["image_lengths"], case["tokens"], case["text_lengths"]


def states_scores(model: CAAN, features, image_lengths, tokens, text_lengths) -> torch.Tensor:
    images, texts = model.image_states(features), model.text_states(tokens, text_lengths)
    return model.score_states(images, image_lengths, texts, text_lengths)


@pytest.mark.parametrize("form", ["plain", "states"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_scores_match_the_golden_cases(path, dtype, tolerance, form):
    model, case = load(path, dtype)
    inputs = inputs_of(case, dtype)
    scores = model(*inputs) if form == "plain" else states_scores(model, *inputs)
    assert (scores.double() - case["scores"]).abs().max() <= tolerance


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_encoders_and_intermediate_values_match_the_golden_cases(path):
    model, case = load(path, torch.float64)
    features, image_lengths, tokens, text_lengths = inputs_of(case, torch.float64)
    regions, words = model.image_encoder(features), model.text_encoder(tokens, text_lengths)
    for result, expected, lengths in ((regions, "regions", image_lengths), (words, "words", text_lengths)):
        for n, length in enumerate(lengths):
            assert (result[n, :length] - case[expected][n, :length]).abs().max() <= 1e-10
    attention = model.scorer.attention(regions, image_lengths, words, text_lengths)
    R, T = int(image_lengths[0]), int(text_lengths[0])
    for name in ("H", "Hu", "Hv", "Sv", "Su", "av", "au"):
        result = getattr(attention, name)[0, 0]
        expected = case[f"pair00_{name}"]
        rows = {"Su": T, "au": T}.get(name, R)
        result = result[:rows] if result.ndim == 1 else result[:rows, : R if name == "Sv" else T]
        assert (result - expected).abs().max() <= 1e-10, name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_states_explain_matches_the_golden_cases(path, dtype, tolerance):
    model, case = load(path, dtype)
    features, image_lengths, tokens, text_lengths = inputs_of(case, dtype)
    states = model.image_states(features), image_lengths, model.text_states(tokens, text_lengths), text_lengths
    result = model.explain_states(*states)
    assert (result.scores.double() - case["scores"]).abs().max() <= tolerance
    R, T = int(image_lengths[0]), int(text_lengths[0])
    for name, valid in {"H": (R, T), "Hu": (R, T), "Hv": (R, T), "av": (R,), "au": (T,)}.items():
        values = getattr(result, name)[0, 0].double()
        part = values[tuple(slice(size) for size in valid)]
        assert (part - case[f"pair00_{name}"]).abs().max() <= tolerance, name


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_what_is_explained_is_zero_where_padded_and_the_same_in_both_forms(path):
    model, case = load(path, torch.float64)
    features, image_lengths, tokens, text_lengths = inputs_of(case, torch.float64)
    images, texts = model.image_states(features), model.text_states(tokens, text_lengths)
    result = model.explain_states(images, image_lengths, texts, text_lengths)
    D = model.config.embed_dim
    plain = model.scorer.attention(images[..., :D], image_lengths, texts[..., :D], text_lengths)
    region = torch.arange(features.shape[1]) < image_lengths[:, None]  # (N, R)
    word = torch.arange(tokens.shape[1]) < text_lengths[:, None]  # (M, T)
    valid = region[:, None, :, None] & word[None, :, None, :]  # (N, M, R, T)
    for name in result._fields:
        assert (getattr(result, name) - getattr(plain, name)).abs().max() <= 1e-10, name
    for alignment in (result.H, result.Hu, result.Hv):
        assert (alignment[~valid.expand_as(alignment)] == 0).all()
    assert (result.av[~region[:, None].expand_as(result.av)] == 0).all()
    assert (result.au[~word[None].expand_as(result.au)] == 0).all()


def test_regions_expand_to_the_states_they_come_from():
    model, case = load(CASES[0], torch.float64)
    states = model.image_states(inputs_of(case, torch.float64)[0])
    assert (model.expand_regions(states[..., : model.config.embed_dim]) == states).all()


def test_the_copied_cases_are_the_shared_ones():
    if not SHARED_CASES:
        pytest.skip("needs the shared golden cases, which only the project's own machines have")
    assert [path.name for path in CASES] == [path.name for path in SHARED_CASES]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(CASES, SHARED_CASES, strict=True))


def test_text_encoder_equals_a_packed_bidirectional_gru():
    model, _ = load(CASES[0], torch.float64)
    tokens, lengths = torch.randint(0, 50, (6, 9)), torch.tensor([9, 1, 4, 8, 2, 9])
    encoder = model.text_encoder
    packed = pack_padded_sequence(encoder.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
    both, _ = pad_packed_sequence(encoder.gru(packed)[0], batch_first=True)
    mean = both.unflatten(-1, (2, -1)).mean(-2)
    expected = mean / mean.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    result = encoder(tokens, lengths)
    for n, length in enumerate(lengths):
        assert (result[n, :length] - expected[n, :length]).abs().max() <= 1e-12


def test_both_forms_have_the_same_finite_gradients_with_padding():
    model, case = load(CASES[1], torch.float64)
    inputs = inputs_of(case, torch.float64)
    model.requires_grad_(True)
    gradients = []
    for scores in (model(*inputs), states_scores(model, *inputs)):
        model.zero_grad()
        scores.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, states in zip(*gradients, strict=True):
        assert torch.isfinite(plain).all()
        assert (plain - states).abs().max() <= 1e-9
