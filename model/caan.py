"""CAAN in PyTorch: encoders, the scorer's plain equations, and the same scores from precomputed states.

Source: Zhang, Lei, Zhang, Li, "Context-Aware Attention Network for Image-Text Retrieval", CVPR 2020,
doi:10.1109/CVPR42600.2020.00359, as interpreted in docs/model.md.

Symbols: N images, M captions, R regions, T words, F region features, E word embedding, D joint, d attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NORM_EPS = 1e-6
# Finite, so that FP16 can hold it; |λH| is at most λ, so exp(-1e4 + λ) is exactly 0 in every precision.
MASKED = -1e4


@dataclass(frozen=True)
class CaanConfig:
    """The sizes and switches of a CAAN, as stored in a checkpoint."""

    region_dim: int
    embed_dim: int
    word_dim: int
    attention_dim: int
    vocab_size: int
    num_regions: int = 36
    attention_scale: float = 1.0
    normalize_images: bool = True  # whether a region is divided by its norm
    normalize_texts: bool = True  # whether a word is divided by its norm

    def as_dict(self) -> dict[str, Any]:
        """As files hold it: `normalize` says both switches where they agree, which older versions read."""
        content = asdict(self)
        if self.normalize_images == self.normalize_texts:
            content["normalize"] = content.pop("normalize_images")
            del content["normalize_texts"]
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CaanConfig:
        """From what `as_dict` returned; unknown entries are ignored. Raises TypeError if a size is missing."""
        switches = ("normalize_images", "normalize_texts")
        both = dict.fromkeys(switches, content["normalize"]) if "normalize" in content else {}
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in {**both, **content}.items() if key in known})


class CAAN(nn.Module):
    """Context-Aware Attention Network.

    `forward` scores all pairs by the plain equations. `image_states`, `text_states` and `score_states` compute the same
    scores with the per-item products precomputed.
    """

    def __init__(self, config: CaanConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.scorer = Scorer(config)

    def forward(self, features: Tensor, image_lengths: Tensor, tokens: Tensor, text_lengths: Tensor) -> Tensor:
        """Scores of every image with every caption, by the plain equations.

        features (N, R, F) float, image_lengths (N,) int, tokens (M, T) int, text_lengths (M,) int → (N, M) float.
        """
        regions = self.image_encoder(features)  # (N, R, D)
        words = self.text_encoder(tokens, text_lengths)  # (M, T, D)
        return self.scorer.attention(regions, image_lengths, words, text_lengths).scores

    def image_states(self, features: Tensor) -> Tensor:
        """features (N, R, F) → states `[V | VK | VQ1 | VQ2 | VQ6]`, (N, R, 2D + 3d)."""
        return self.expand_regions(self.image_encoder(features))

    def expand_regions(self, regions: Tensor) -> Tensor:
        """Regions V (N, R, D), the first columns of image states, → complete states, (N, R, 2D + 3d)."""
        V, s = regions, self.scorer
        return torch.cat([V, V @ s.K, V @ s.Q1, V @ s.Q2, V @ s.Q6], dim=-1)

    def text_states(self, tokens: Tensor, text_lengths: Tensor) -> Tensor:
        """tokens (M, T), text_lengths (M,) → states `[U | UQ3 | UQ4 | UQ5]`, (M, T, D + 3d)."""
        U = self.text_encoder(tokens, text_lengths)
        s = self.scorer
        return torch.cat([U, U @ s.Q3, U @ s.Q4, U @ s.Q5], dim=-1)

    def score_states(
        self, image_states: Tensor, image_lengths: Tensor, text_states: Tensor, text_lengths: Tensor
    ) -> Tensor:
        """Scores of every image with every caption from their states.

        image_states (N, R, 2D + 3d), image_lengths (N,), text_states (M, T, D + 3d), text_lengths (M,) → (N, M). Padded
        rows may hold any finite values.
        """
        return self._attention_of_states(image_states, image_lengths, text_states, text_lengths).scores

    def explain_states(
        self, image_states: Tensor, image_lengths: Tensor, text_states: Tensor, text_lengths: Tensor
    ) -> StatesAttention:
        """The intermediate values of `score_states`, from the same states; zero where padded."""
        attention = self._attention_of_states(image_states, image_lengths, text_states, text_lengths)
        region = _valid(image_lengths, image_states.shape[1])[:, None, :, None]  # (N, 1, R, 1)
        word = _valid(text_lengths, text_states.shape[1])[None, :, None, :]  # (1, M, 1, T)
        return attention._replace(H=attention.H * (region & word))

    def _attention_of_states(
        self, image_states: Tensor, image_lengths: Tensor, text_states: Tensor, text_lengths: Tensor
    ) -> StatesAttention:
        D, d = self.config.embed_dim, self.config.attention_dim
        V, VK, VQ1, VQ2, VQ6 = torch.split(image_states, [D, D, d, d, d], dim=-1)
        U, UQ3, UQ4, UQ5 = torch.split(text_states, [D, d, d, d], dim=-1)
        return self.scorer.from_products(V, VK, VQ1, VQ2, VQ6, image_lengths, U, UQ3, UQ4, UQ5, text_lengths)


class ImageEncoder(nn.Module):
    """`V = l2norm(X Wᵀ + b)`."""

    def __init__(self, config: CaanConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(config.region_dim, config.embed_dim)
        self.normalize = config.normalize_images
        # Xavier uniform, as in the SCAN family's image projection
        bound = (6.0 / (config.region_dim + config.embed_dim)) ** 0.5
        nn.init.uniform_(self.fc.weight, -bound, bound)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        """features (N, R, F) → regions (N, R, D)."""
        regions: Tensor = self.fc(features)
        return l2norm(regions, -1) if self.normalize else regions


class TextEncoder(nn.Module):
    """Word embedding, then a bidirectional GRU with averaged directions."""

    # Runs one direction. The ONNX export replaces it with a custom operator.
    recurrence: Callable[..., Any] = staticmethod(torch.gru)

    def __init__(self, config: CaanConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.word_dim)
        self.gru = nn.GRU(config.word_dim, config.embed_dim, batch_first=True, bidirectional=True)
        self.normalize = config.normalize_texts
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (M, T) int64, lengths (M,) int64 in 1..T → words (M, T, D); padded rows are meaningless.

        The backward direction reads each caption reversed within its length: equivalent to a packed bidirectional GRU,
        but expressible in ONNX, which has no packed sequences.
        """
        embedded = self.embedding(tokens)  # (M, T, E)
        position = torch.arange(tokens.shape[1], device=tokens.device)  # (T,)
        last = lengths[:, None] - 1
        # reverses the valid positions and keeps padding in place; its own inverse
        mirrored = torch.where(position <= last, last - position, position)  # (M, T)
        forward = self._run(embedded, "")
        backward = self._run(_take_rows(embedded, mirrored), "_reverse")
        words = (forward + _take_rows(backward, mirrored)) / 2
        return l2norm(words, -1) if self.normalize else words

    def _run(self, inputs: Tensor, suffix: str) -> Tensor:
        weights = [getattr(self.gru, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        # Sized from the input's batch: without an explicit initial state the exporter bakes in the example's batch
        # size, and any other fails at run time.
        initial = inputs.new_zeros(1, inputs.shape[0], self.gru.hidden_size)
        outputs: Tensor = self.recurrence(inputs, initial, weights, True, 1, 0.0, False, False, True)[0]
        return outputs


class Attention(NamedTuple):
    """Everything the scorer computes for all pairs of N images and M captions; zero where padded."""

    scores: Tensor  # (N, M)
    H: Tensor  # (N, M, R, T) affinity
    Hu: Tensor  # (N, M, R, T) a region's attention over the words
    Hv: Tensor  # (N, M, R, T) a word's attention over the regions
    Sv: Tensor  # (N, M, R, R) relation of regions with similar attention
    Su: Tensor  # (N, M, T, T) relation of words with similar attention
    av: Tensor  # (N, M, R) weight of each region in the score
    au: Tensor  # (N, M, T) weight of each word in the score


class StatesAttention(NamedTuple):
    """`Attention` computed from precomputed states, without Sv and Su, which are never formed there.

    Zero where padded, except H from `Scorer.from_products`.
    """

    scores: Tensor  # (N, M)
    H: Tensor  # (N, M, R, T)
    Hu: Tensor  # (N, M, R, T)
    Hv: Tensor  # (N, M, R, T)
    av: Tensor  # (N, M, R)
    au: Tensor  # (N, M, T)


class Scorer(nn.Module):
    """The cross-attention scorer."""

    def __init__(self, config: CaanConfig) -> None:
        super().__init__()
        D, d = config.embed_dim, config.attention_dim
        self.scale = config.attention_scale
        self.K = nn.Parameter(torch.empty(D, D))
        self.Q1, self.Q2, self.Q3 = (nn.Parameter(torch.empty(D, d)) for _ in range(3))
        self.Q4, self.Q5, self.Q6 = (nn.Parameter(torch.empty(D, d)) for _ in range(3))
        self.w_v = nn.Parameter(torch.empty(d))
        self.w_u = nn.Parameter(torch.empty(d))
        for parameter in self.parameters():
            bound = (6.0 / (parameter.shape[0] + parameter.shape[-1])) ** 0.5
            nn.init.uniform_(parameter, -bound, bound)

    def attention(self, V: Tensor, image_lengths: Tensor, U: Tensor, text_lengths: Tensor) -> Attention:
        """The plain equations, with every intermediate value, for all pairs.

        V (N, R, D) regions, image_lengths (N,), U (M, T, D) words, text_lengths (M,).
        """
        V, U = V[:, None], U[None]  # (N, 1, R, D), (1, M, T, D)
        region = _valid(image_lengths, V.shape[2])[:, None, :, None]  # (N, 1, R, 1)
        word = _valid(text_lengths, U.shape[2])[None, :, None, :]  # (1, M, 1, T)
        H = torch.tanh(V @ self.K @ U.transpose(-1, -2)) * (region & word)  # (N, M, R, T)
        Hu, Hv = self._cross_softmax(H, region, word)
        A, B = l2norm(Hu, -1), l2norm(Hv, -2)
        Sv, Su = A @ A.transpose(-1, -2), B.transpose(-1, -2) @ B
        Zv = torch.tanh(V @ self.Q1 + Sv @ (V @ self.Q2) + Hu @ (U @ self.Q3))  # (N, M, R, d)
        Zu = torch.tanh(U @ self.Q4 + Su @ (U @ self.Q5) + Hv.transpose(-1, -2) @ (V @ self.Q6))  # (N, M, T, d)
        av = (Zv @ self.w_v).masked_fill(~region[..., 0], MASKED).softmax(-1)  # (N, M, R)
        au = (Zu @ self.w_u).masked_fill(~word[:, :, 0], MASKED).softmax(-1)  # (N, M, T)
        image = (av[..., None, :] @ V)[..., 0, :]  # (N, M, D)
        text = (au[..., None, :] @ U)[..., 0, :]  # (N, M, D)
        return Attention((image * text).sum(-1), H, Hu, Hv, Sv, Su, av, au)

    def from_products(
        self,
        V: Tensor,
        VK: Tensor,
        VQ1: Tensor,
        VQ2: Tensor,
        VQ6: Tensor,
        image_lengths: Tensor,
        U: Tensor,
        UQ3: Tensor,
        UQ4: Tensor,
        UQ5: Tensor,
        text_lengths: Tensor,
    ) -> StatesAttention:
        """The scores and intermediate values, given all products of an item with a weight.

        Image products (N, R, D or d), text products (M, T, D or d). `Sv (V Q2)` is computed as `A (Aᵀ (V Q2))`, without
        the R × R matrix.
        """
        (N, R), (M, T) = V.shape[:2], U.shape[:2]
        region = _valid(image_lengths, R)[:, None, :, None]  # (N, 1, R, 1)
        word = _valid(text_lengths, T)[None, :, None, :]  # (1, M, 1, T)
        # One GEMM for the whole tile instead of one small product per pair
        H = torch.tanh(VK.reshape(N * R, -1) @ U.reshape(M * T, -1).T)  # (N·R, M·T)
        H = H.reshape(N, R, M, T).transpose(1, 2)  # (N, M, R, T)
        Hu, Hv = self._cross_softmax(H, region, word)
        A, B = l2norm(Hu, -1), l2norm(Hv, -2)
        context = A.transpose(-1, -2) @ VQ2[:, None]  # (N, M, T, d)
        # A (Aᵀ V Q2) + Hu (U Q3) as one product, which saves another pass over (R, d) for the sum
        attended = torch.cat([A, Hu], -1) @ torch.cat([context, UQ3.expand(N, -1, -1, -1)], -2)  # (N, M, R, d)
        Zv = torch.tanh(VQ1[:, None] + attended)
        Zu = torch.tanh(UQ4 + (B.transpose(-1, -2) @ B) @ UQ5 + Hv.transpose(-1, -2) @ VQ6[:, None])  # (N, M, T, d)
        av = _weigh(Zv, self.w_v).masked_fill(~region[..., 0], MASKED).softmax(-1)  # (N, M, R)
        au = _weigh(Zu, self.w_u).masked_fill(~word[:, :, 0], MASKED).softmax(-1)  # (N, M, T)
        image = av @ V  # (N, M, D)
        text = (au.transpose(0, 1) @ U).transpose(0, 1)  # (N, M, D)
        return StatesAttention((image * text).sum(-1), H, Hu, Hv, av, au)

    def _cross_softmax(self, H: Tensor, region: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
        """Hu, Hv (N, M, R, T) from the affinity; padded regions and words hold and receive exactly 0."""
        logits = self.scale * H
        Hu = logits.masked_fill(~word, MASKED).softmax(-1) * region
        Hv = logits.masked_fill(~region, MASKED).softmax(-2) * word
        return Hu, Hv


def l2norm(x: Tensor, dim: int) -> Tensor:
    """`x / max(‖x‖₂, 1e-6)` along `dim`, computed in at least float32; same dtype as x."""
    wide = x if x.dtype == torch.float64 else x.float()
    # clamped before the root: its gradient at 0, the value of padded rows, is infinite
    norm = wide.square().sum(dim, keepdim=True).clamp_min(NORM_EPS**2).sqrt()
    return (wide / norm).to(x.dtype)


def _weigh(Z: Tensor, w: Tensor) -> Tensor:
    """Z (…, d), w (d,) → Z·w (…).

    Computed as one (1, d) × (d, rows) product: ONNX Runtime's batched matrix-vector product took a third of the
    scorer's time.
    """
    return (w[None] @ Z.reshape(-1, Z.shape[-1]).T).reshape(Z.shape[:-1])


def _valid(lengths: Tensor, size: int) -> Tensor:
    """lengths (N,) → (N, size) bool: which positions are not padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def _take_rows(x: Tensor, index: Tensor) -> Tensor:
    """x (M, T, C), index (M, T) → x[m, index[m, t], :], (M, T, C)."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
