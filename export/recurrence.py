"""The GRU as one operator, which stays whole on its way into the graph.

PyTorch's own way differs between releases: in 2.10 and 2.12 the exported GRU takes no other number of words than the
traced example had.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor

from ..model.caan import TextEncoder

op: Any = opset18  # its types know no lists for tensors


@torch.library.custom_op("caan::gru", mutates_args=())
def gru(inputs: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """One direction of one layer: inputs (M, T, E), initial (1, M, D) → (M, T, D), weights as PyTorch orders them."""
    return torch.gru(inputs, initial, [w_ih, w_hh, b_ih, b_hh], True, 1, 0.0, False, False, True)[0]


@gru.register_fake
def _shape(inputs: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    return inputs.new_empty(inputs.shape[0], inputs.shape[1], initial.shape[2])


@contextmanager
def whole_recurrence(encoder: TextEncoder) -> Iterator[dict[Callable[..., Any], Callable[..., Any]]]:
    """Let an encoder run this operator; yields the exporter's `custom_translation_table`."""

    def run(inputs: Tensor, initial: Tensor, weights: Sequence[Tensor], *_: object) -> tuple[Tensor]:
        return (gru(inputs, initial, *weights),)

    encoder.recurrence = run
    try:
        yield {torch.ops.caan.gru.default: _as_onnx}
    finally:
        del encoder.recurrence


def _as_onnx(inputs, initial, w_ih, w_hh, b_ih, b_hh):  # type: ignore[no-untyped-def]
    """ONNX's GRU has the time first, an axis for the directions, and its gates as update, reset, new."""
    size = w_hh.shape[1]
    order = [*range(size, 2 * size), *range(size), *range(2 * size, 3 * size)]  # of PyTorch's reset, update, new
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
