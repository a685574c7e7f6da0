"""A state dict from a file → a CAAN, if all parameters are present, have the right shape, and are finite."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from .caan import CAAN, CaanConfig

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def build_model(path: Path, config: CaanConfig, state: dict[str, Tensor]) -> CAAN:
    """The model with these parameters. Raises CheckpointError, naming every parameter that does not fit."""
    for name, tensor in state.items():
        check_kind(path, name, tensor)
    with torch.device("meta"):  # sizes come from a file: compare shapes before allocating
        expected = {name: tuple(tensor.shape) for name, tensor in CAAN(config).state_dict().items()}
    shapes = {name: tuple(value.shape) if isinstance(value, Tensor) else () for name, value in state.items()}
    problems = []
    if missing := sorted(expected.keys() - shapes.keys()):
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected := sorted(shapes.keys() - expected.keys()):
        problems.append(f"unexpected: {', '.join(unexpected)}")
    if wrong := [f"{n} is {shapes[n]}, expected {s}" for n, s in expected.items() if n in shapes and shapes[n] != s]:
        problems.append(f"mis-shaped: {', '.join(wrong)}")
    if problems:
        raise CheckpointError(f"{path} does not fit its config; {'; '.join(problems)}")
    try:
        return _filled(path, config, state)
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        raise no_memory(path) from error


def _filled(path: Path, config: CaanConfig, state: dict[str, Tensor]) -> CAAN:
    model, parameters = CAAN(config), {}
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: parameter {name} holds NaN or infinity; export an earlier checkpoint")
        parameters[name] = tensor.float()
        if not torch.isfinite(parameters[name]).all():
            raise CheckpointError(f"{path}: parameter {name} holds numbers too large for float32; rescale it")
    model.load_state_dict(parameters)
    return model.eval().requires_grad_(False)


def check_kind(path: Path, name: str, tensor: object) -> None:
    """Raise CheckpointError for a tensor that is not a dense array of floats, all stored in the file."""
    if not isinstance(tensor, Tensor):
        return  # reported with the wrong shapes
    remedy = "save the parameters as plain tensors of float32"
    if tensor.is_nested or tensor.is_quantized or tensor.layout != torch.strided or tensor.is_meta:
        kinds = {"nested": tensor.is_nested, "quantized": tensor.is_quantized, "without numbers": tensor.is_meta}
        kind = next((kind for kind, holds in kinds.items() if holds), "sparse")
        raise CheckpointError(f"{path}: parameter {name} is a tensor that is {kind}; {remedy}")
    if tensor.dtype not in _FLOATS:
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"{path}: parameter {name} is {dtype}, not floats; {remedy}")
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{path}: parameter {name} repeats its numbers instead of holding them; save tensor.contiguous()"
        )


def is_memory(error: Exception) -> bool:
    """Whether memory ran out, which PyTorch reports only in a RuntimeError's text."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error))


def no_memory(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} needs more memory than is available; free some, or use a machine with more")
