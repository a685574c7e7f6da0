"""The module caan_native itself (cpp/python); the backend's tests are in tests/runtime. Skipped without it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest


@pytest.fixture(scope="session")
def caan_native():
    return pytest.importorskip("caan_native", reason="needs caan-native; make native builds it")


@dataclass
class Case:
    """A model's scorer and random states: items of these lengths, NaN after each item's end.

    Item i's rows begin at i * longest, or where `starts` say.
    """

    embed_dim: int
    attention_dim: int
    attention_scale: float
    w_v: np.ndarray  # (d,) float32
    w_u: np.ndarray
    image_states: np.ndarray  # (images, R, 2D + 3d)
    image_lengths: np.ndarray  # (images,) int64
    text_states: np.ndarray  # (captions, T, D + 3d)
    text_lengths: np.ndarray
    image_starts: np.ndarray | None = None  # (images,) int64
    text_starts: np.ndarray | None = None

    def scorer(self, module, precision="fp32", threads=1):
        return module.Scorer(
            self.embed_dim, self.attention_dim, self.attention_scale, self.w_v, self.w_u, precision, threads
        )

    def states(self):
        """In the module's format."""
        images = rows(self.image_states, self.image_starts), self.image_lengths
        texts = rows(self.text_states, self.text_starts), self.text_lengths
        return *images[0], images[1], *texts[0], texts[1]

    def scores(self, module, precision="fp32", threads=1):
        """(images, captions) float32"""
        scores = np.full((len(self.image_lengths), len(self.text_lengths)), np.nan, np.float32)
        self.scorer(module, precision, threads).score(*self.states(), scores)
        return scores

    def exact(self):
        """(images, captions) float64, by the model's equations on float64 states."""
        texts = [s[:n].astype(np.float64) for s, n in zip(self.text_states, self.text_lengths, strict=True)]
        images = [s[:n].astype(np.float64) for s, n in zip(self.image_states, self.image_lengths, strict=True)]
        return np.array(
            [[_pooled(*self._weights(image, text), image, text, self.embed_dim) for text in texts] for image in images]
        )

    def exact_weights(self):
        """av (images, captions, longest image) and au (images, captions, longest caption) float64, 0 beyond an item."""
        av = np.zeros((len(self.image_lengths), len(self.text_lengths), max(self.image_lengths)))
        au = np.zeros((*av.shape[:2], max(self.text_lengths)))
        for i, regions in enumerate(self.image_lengths):
            for j, words in enumerate(self.text_lengths):
                states = self.image_states[i, :regions], self.text_states[j, :words]
                av[i, j, :regions], au[i, j, :words] = self._weights(*(s.astype(np.float64) for s in states))
        return av, au

    def _weights(self, image, text):
        D, d = self.embed_dim, self.attention_dim
        _, VK, VQ1, VQ2, VQ6 = np.split(image, np.cumsum([D, D, d, d]), axis=1)
        U, UQ3, UQ4, UQ5 = np.split(text, np.cumsum([D, d, d]), axis=1)
        H = np.tanh(VK @ U.T)  # (regions, words)
        Hu, Hv = _softmax(self.attention_scale * H, 1), _softmax(self.attention_scale * H, 0)
        A, B = Hu / np.linalg.norm(Hu, axis=1, keepdims=True), Hv / np.linalg.norm(Hv, axis=0, keepdims=True)
        Zv = np.tanh(VQ1 + A @ A.T @ VQ2 + Hu @ UQ3)
        Zu = np.tanh(UQ4 + B.T @ B @ UQ5 + Hv.T @ VQ6)
        return _softmax(Zv @ self.w_v, 0), _softmax(Zu @ self.w_u, 0)


def rows(states, starts):
    """(rows, first row of each item) of padded states (items, longest, width); other values stay as they are."""
    if isinstance(states, np.ndarray) and states.ndim == 3:
        items, longest, width = states.shape
        if starts is None:
            starts = np.arange(items, dtype=np.int64) * longest
        states = states.reshape(items * longest, width)
    return states, starts


def _pooled(av, au, image, text, embed_dim):
    """A pair's score."""
    return (av @ image[:, :embed_dim]) @ (au @ text[:, :embed_dim])


def _softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def draw_case(seed=0, embed_dim=12, attention_dim=9, attention_scale=2.0, image_lengths=(5, 1, 3), text_lengths=(4, 1)):
    random = np.random.default_rng(seed)

    def states(lengths, width):
        result = random.normal(0, 0.7, (len(lengths), max(lengths), width)).astype(np.float32)
        result[..., :embed_dim] /= np.linalg.norm(result[..., :embed_dim], axis=-1, keepdims=True)
        for item, length in zip(result, lengths, strict=True):
            item[length:] = np.nan
        return result

    weights = partial(random.normal, 0, 2 / np.sqrt(attention_dim), attention_dim)
    return Case(
        embed_dim,
        attention_dim,
        attention_scale,
        weights().astype(np.float32),
        weights().astype(np.float32),
        states(image_lengths, 2 * embed_dim + 3 * attention_dim),
        np.array(image_lengths, np.int64),
        states(text_lengths, embed_dim + 3 * attention_dim),
        np.array(text_lengths, np.int64),
    )


@pytest.fixture
def case():
    return draw_case()


@pytest.fixture
def draw():
    return draw_case
