"""The GRU as one custom operator, which the exporter does not decompose.

PyTorch's own export differs between releases: in 2.10 and 2.12 the exported GRU accepts only the traced example's
number of words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor

from ..model.caan import TextEncoder

op: Any = opset18  # its type hints allow no lists for tensors


@torch.library.custom_op("caan::gru", mutates_args=())
def gru(inputs: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """One direction of one layer: inputs (M, T, E), initial (1, M, D) → (M, T, D), weights as PyTorch orders them."""
    return torch.gru(inputs, initial, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, True)[0]


@gru.register_fake
def _shape(inputs: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], initial.shape[2])


@contextmanager
def whole_recurrence(encoder: TextEncoder) -> Iterator[dict[Callable[..., Any], Callable[..., Any]]]:
    """Make an encoder use this operator; yields the exporter's `custom_translation_table`."""

    def run(inputs: Tensor, initial: Tensor, weights: Sequence[Tensor], *_: object) -> tuple[Tensor]:
        return (gru(inputs, initial, *weights),)

    encoder.recurrence = run
    try:
        yield {torch.ops.caan.gru.default: _as_onnx}
    finally:
        del encoder.recurrence


def _as_onnx(inputs, initial, w_ih, w_hh, b_ih, b_hh):  # type: ignore[no-untyped-def]
    """ONNX's GRU is time-first, has an axis for directions, and orders its gates update, reset, new."""
    size = w_hh.shape[1]
    order = [*range(size, 2 * size), *range(size), *range(2 * size, 3 * size)]  # from PyTorch's reset, update, new
    w_ih, w_hh, b_ih, b_hh = (op.Gather(weight, order, axis=0) for weight in (w_ih, w_hh, b_ih, b_hh))
    biases = op.Unsqueeze(op.Concat(b_ih, b_hh, axis=0), [0])
    outputs, _ = op.GRU(
        op.Transpose(inputs, perm=[1, 0, 2]),
        op.Unsqueeze(w_ih, [0]),
        op.Unsqueeze(w_hh, [0]),
        biases,
        None,
        initial,
        hidden_size=size,
        linear_before_reset=1,
    )
    return op.Transpose(op.Squeeze(outputs, [1]), perm=[1, 0, 2])
