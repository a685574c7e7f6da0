"""Correctness of the kernel's scores against float64: golden cases, odd shapes, every choice of blocks, all types."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from ....errors import MissingError
from ....model.caan import CAAN, CaanConfig
from ....runtime import Retriever
from ....runtime.backends.triton.launch import choices, score_states
from ....runtime.choices import Precision
from ..kit_model import kit_bundle, random_inputs
from ..plan import Put, Row, StepSettings

GOLDEN = Path(__file__).resolve().parents[3] / "tests" / "golden"
# Allowed error against float64 scores of the same states.
LIMITS = {torch.float32: 1e-5, torch.float16: 3e-4, torch.bfloat16: 2e-3}
# The same for states that were not rounded first, and between the states of different encoders.
ROUNDED_LIMITS = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-2}


class Shape(NamedTuple):
    images: int
    regions: int
    captions: int
    words: int
    D: int
    d: int


PAPER = Shape(17, 36, 33, 14, 1024, 1024)
ODD = (
    Shape(5, 37, 7, 13, 200, 72),  # nothing is a multiple of 16
    Shape(3, 1, 5, 1, 64, 48),  # items of one row
    Shape(1, 50, 700, 17, 64, 48),  # one image, many captions
    Shape(130, 20, 1, 33, 64, 48),  # one caption
    Shape(4, 100, 6, 90, 128, 64),
)
TINY = Shape(1, 5, 2, 3, 16, 16)
TINY_ODD = (Shape(1, 1, 2, 1, 7, 5),)
_ODD_CHOICES = 2  # of blocks, for odd shapes


def run(settings: StepSettings, put: Put) -> None:
    """One row for each case and type: the largest error over its choices of blocks."""
    for dtype in LIMITS:
        for shape in shapes(settings.rehearse):
            put(f"{_name(dtype)} {_text(shape)}", _check(shape, dtype, settings))
    for file in sorted(GOLDEN.glob("tiny.npz" if settings.rehearse else "*.npz")):
        for dtype in LIMITS:
            put(f"{_name(dtype)} golden {file.stem}", _golden(file, dtype, settings.device))
    for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        put(f"{_name(dtype)} like ONNX Runtime on the CPU", _like_onnxruntime(settings, precision, dtype))


def shapes(rehearse: bool) -> tuple[Shape, ...]:
    """The paper's size, then odd shapes."""
    return (TINY, *TINY_ODD) if rehearse else (PAPER, *ODD)


def blocks_for(shape: Shape, dtype: torch.dtype) -> list[Any]:
    """The choices of blocks to check: all for the paper's size."""
    every = choices(dtype, shape.regions, shape.words)
    return list(every if shape in (PAPER, TINY) else every[:_ODD_CHOICES])


def states_of(shape: Shape, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Arguments of `score_states` except the scale: fresh random states, for scores of about 0.1; NaN where padded.

    A score is a mean over words and regions. With few of them scores are larger, and so are their rounding errors, for
    which LIMITS has no margin: such states are drawn smaller.
    """
    generator = torch.Generator()
    generator.seed()
    widths = 2 * shape.D + 3 * shape.d, shape.D + 3 * shape.d
    few = min(1.0, shape.regions * shape.words / (PAPER.regions * PAPER.words))
    size = (few / shape.D) ** 0.25

    def side(items: int, rows: int, width: int) -> tuple[Tensor, Tensor]:
        lengths = torch.randint(1, rows + 1, (items,), generator=generator)
        states = torch.randn(items, rows, width, generator=generator) * size
        states[torch.arange(rows) >= lengths[:, None]] = float("nan")
        return states.to(device, dtype), lengths.to(device)

    weights = torch.randn(2, shape.d, generator=generator) / shape.d**0.5
    images, texts = side(shape.images, shape.regions, widths[0]), side(shape.captions, shape.words, widths[1])
    return *images, *texts, weights.to(device)


def _check(shape: Shape, dtype: torch.dtype, settings: StepSettings) -> Row:
    worst, exact = 0.0, torch.zeros(0)
    for blocks in blocks_for(shape, dtype):
        arguments = states_of(shape, dtype, settings.device)
        exact = _exact(*arguments, 4.0)
        with _poisoned():
            scores = score_states(*arguments, 4.0, blocks)
        worst = max(worst, _difference(scores, exact))
    return _row(worst, LIMITS[dtype], exact)


def _golden(file: Path, dtype: torch.dtype, device: str) -> Row:
    case = np.load(file)
    weight = {name.removeprefix("param_"): case[name] for name in case.files}
    V, U = case["regions"], case["words"]
    image = np.concatenate([V, *(V @ weight[name] for name in ("K", "Q1", "Q2", "Q6"))], -1)
    text = np.concatenate([U, *(U @ weight[name] for name in ("Q3", "Q4", "Q5"))], -1)
    states = [torch.from_numpy(array).to(device, dtype) for array in (image, text)]
    lengths = [torch.from_numpy(case[f"{side}_lengths"]).long().to(device) for side in ("image", "text")]
    weights = torch.from_numpy(np.stack([weight["w_v"], weight["w_u"]])).float().to(device)
    expected, scale, worst = torch.from_numpy(case["scores"]).to(device), float(case["attention_scale"]), 0.0
    for blocks in choices(dtype, image.shape[1], text.shape[1]):
        with _poisoned():
            scores = score_states(states[0], lengths[0], states[1], lengths[1], weights, scale, blocks)
        worst = max(worst, _difference(scores, expected))
        if device == "cpu":
            break  # the interpreter computes the same for all
    return _row(worst, ROUNDED_LIMITS[dtype] * max(1.0, float(expected.abs().max())), expected)


def _like_onnxruntime(settings: StepSettings, precision: str, dtype: torch.dtype) -> Row:
    """The kit's model by the backend `triton` against the FP32 graphs."""
    try:
        bundle = kit_bundle(settings)
    except MissingError as error:
        return {"note": str(error)}
    graphs = Retriever.open(bundle, "onnxruntime", device="cpu")
    kernel = Retriever.open(bundle, "triton", cast(Precision, precision))
    inputs = random_inputs(settings, graphs)
    expected, scores = (torch.from_numpy(retriever.score_dataset(*inputs)) for retriever in (graphs, kernel))
    return _row(_difference(scores, expected), ROUNDED_LIMITS[dtype], expected)


def _row(worst: float, allowed: float, expected: Tensor) -> Row:
    spread = float(expected.double().std(correction=0))
    return {"ok": worst <= allowed, "max |Δ score|": worst, "allowed": allowed, "σ of scores": spread}


def _exact(
    image_states: Tensor,
    image_lengths: Tensor,
    text_states: Tensor,
    text_lengths: Tensor,
    weights: Tensor,
    scale: float,
) -> Tensor:
    """By the plain equations in float64, on the same device."""
    d = weights.shape[1]
    model = (
        CAAN(CaanConfig(1, text_states.shape[2] - 3 * d, 1, d, 1, attention_scale=scale)).double().to(weights.device)
    )
    with torch.inference_mode():
        model.scorer.w_v.copy_(weights[0])
        model.scorer.w_u.copy_(weights[1])
        states = (s.double().nan_to_num() for s in (image_states, text_states))
        return model.score_states(next(states), image_lengths, next(states), text_lengths)


@contextmanager
def _poisoned() -> Iterator[None]:
    """Fill new tensors with NaN: a score that the kernel does not write can't be right by chance."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _difference(scores: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; infinite if a score is NaN."""
    return float((scores.double() - expected.double()).abs().nan_to_num(float("inf")).max())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _text(shape: Shape) -> str:
    return f"{shape[0]} × {shape[2]}, R {shape.regions}, T {shape.words}, D {shape.D}, d {shape.d}"
