"""Launches the kernel: pads sizes, and chooses block sizes by trials on the GPU.

Experimental: block sizes have been tried on no GPU yet.
"""

from __future__ import annotations

import math
from functools import cache
from threading import Lock
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from .kernel import score_kernel

# TRITON_INTERPRET=1, set before Triton is imported, runs kernels on the CPU: slow, for tests.
INTERPRETED: bool = triton.knobs.runtime.interpret

TL_DTYPES = {  # PyTorch → Triton
    torch.float32: tl.float32,
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
}
_SMALLEST = 16  # side of a product on tensor cores
# Bytes per number → most padded regions × words per pair that fit a large GPU's registers and shared memory.
_MOST_CELLS = {2: 1 << 14, 4: 1 << 13}
MOST_CAPTIONS = 8  # per program
# Most regions × words a program keeps in registers, per thread.
_CELLS_PER_THREAD = 32

# Neither the autotuner nor the interpreter is thread-safe. A launch does not wait for the GPU.
_LAUNCHING = Lock()


class TooLargeError(Exception):
    """More regions × words than fit the kernel's registers on this GPU."""


class Choice(NamedTuple):
    """How the kernel divides its work. With several captions per program, there is one warp per caption."""

    captions: int
    block_d: int
    block_a: int
    warps: int
    stages: int
    images: int = 1  # per program, 1 or 2
    split: bool = True  # pad R to the sum of two powers of two if that is less than one: 36 to 32 + 16


# Bytes per number → the choices with the lowest estimated cost at R = 36, T = 14 (docs/performance.md), and some that
# need fewer registers, for longer items.
_CHOICES = {
    2: [
        Choice(4, 64, 16, 4, 2),
        Choice(4, 64, 16, 4, 3),
        Choice(4, 64, 32, 4, 2),
        Choice(8, 64, 32, 8, 2),
        Choice(8, 64, 32, 8, 3),
        Choice(4, 64, 16, 4, 2, images=2),
        Choice(8, 64, 16, 8, 2, images=2),
        Choice(8, 64, 32, 8, 2, split=False),
        Choice(2, 64, 16, 2, 2),
        Choice(1, 64, 32, 4, 2),
        Choice(1, 64, 16, 8, 2),
        Choice(1, 32, 16, 16, 2),
    ],
    4: [
        Choice(8, 32, 16, 8, 2),
        Choice(4, 32, 16, 8, 2),
        Choice(2, 32, 16, 4, 2),
        Choice(1, 32, 16, 4, 2),
        Choice(1, 16, 16, 8, 1),
        Choice(1, 16, 16, 16, 1),
    ],
}


def score_states(
    image_states: Tensor,
    image_lengths: Tensor,
    text_states: Tensor,
    text_lengths: Tensor,
    weights: Tensor,
    scale: float,
    choice: Choice | None = None,
) -> Tensor:
    """Scores of n images with m captions, (n, m) float32, from their states; all on one device, contiguous.

    image_states (n, R, 2D + 3d) and text_states (m, T, D + 3d) of one dtype, float32, float16 or bfloat16, lengths (n,)
    and (m,) int64, weights (2, d) float32, scale λ. Padded rows are ignored; an item of length 0 scores 0. choice:
    overrides the autotuned one; choices differ only in a score's last bits. Returns before the GPU is done. Raises
    TooLargeError.
    """
    (n, R, columns), (m, T, text_columns), d = image_states.shape, text_states.shape, weights.shape[1]
    D = text_columns - 3 * d
    assert columns == 2 * D + 3 * d and weights.is_contiguous()
    assert image_states.is_contiguous() and text_states.is_contiguous()
    scores = torch.empty((n, m), dtype=torch.float32, device=image_states.device)
    if scores.numel() == 0:
        return scores
    dtype = image_states.dtype
    _, T_PAD = padded_sizes(R, T, dtype.itemsize)
    arguments = (image_states, image_lengths, text_states, text_lengths, weights, n, m, R, T, D, d, scale, scores)
    if choice is None and INTERPRETED:
        choice = Choice(2, 32, 32, 4, 1)
    with _LAUNCHING:
        try:
            if choice is not None:
                score_kernel[_grid](*arguments, T_PAD=T_PAD, DTYPE=TL_DTYPES[dtype], **options(choice, R))
            else:
                most = min(triton.next_power_of_2(m), MOST_CAPTIONS)
                # All R with the same padding share their trials.
                kernel = _tuned(dtype, sum(region_parts(R, True)), T_PAD, most)
                kernel[_grid](*arguments, T_PAD=T_PAD, DTYPE=TL_DTYPES[dtype])
        except (OutOfResources, PTXASError) as error:
            raise TooLargeError from error
    return scores


def padded_sizes(R: int, T: int, itemsize: int) -> tuple[int, int]:
    """R and T as the kernel pads them. Raises TooLargeError if they don't fit the registers of any GPU."""
    padded_R, padded_T = (max(_SMALLEST, int(triton.next_power_of_2(size))) for size in (R, T))
    if padded_R * padded_T > _MOST_CELLS[itemsize]:
        raise TooLargeError
    return padded_R, padded_T


def region_parts(R: int, split: bool) -> tuple[int, int]:
    """R as the kernel pads it: two powers of two if their sum is less than one, 36 → (32, 16), else one, (64, 0)."""
    whole = max(_SMALLEST, int(triton.next_power_of_2(R)))
    high = whole // 2
    low = max(_SMALLEST, int(triton.next_power_of_2(R - high)))
    return (high, low) if split and whole > _SMALLEST and low < high else (whole, 0)


def choices(dtype: torch.dtype, R: int, T: int, most_captions: int = MOST_CAPTIONS) -> list[Choice]:
    """The choices to autotune for items of at most R regions and T words; if none fits the registers, those that need
    the fewest. Raises TooLargeError."""
    _, T_PAD = padded_sizes(R, T, dtype.itemsize)

    def cells(choice: Choice) -> float:
        return choice.captions * sum(region_parts(R, choice.split)) * T_PAD / (32 * choice.warps)

    # Without a second part, `split` changes nothing.
    possible = [
        choice
        for choice in _CHOICES[dtype.itemsize]
        if choice.captions <= most_captions and (choice.split or region_parts(R, True)[1])
    ]
    fewest = min(map(cells, possible))
    return [choice for choice in possible if cells(choice) <= max(fewest, _CELLS_PER_THREAD)]


def options(choice: Choice, R: int) -> dict[str, Any]:
    """A choice as launch arguments of the kernel, for images of R regions."""
    R_HIGH, R_LOW = region_parts(R, choice.split)
    return {
        "R_HIGH": R_HIGH,
        "R_LOW": R_LOW,
        "IMAGES": choice.images,
        "CAPTIONS": choice.captions,
        "BLOCK_D": choice.block_d,
        "BLOCK_A": choice.block_a,
        "STAGES": choice.stages,
        "num_warps": choice.warps,
        "num_stages": choice.stages,
    }


@cache
def _tuned(dtype: torch.dtype, R: int, T_PAD: int, most_captions: int) -> Any:
    configs = []
    for choice in choices(dtype, R, T_PAD, most_captions):
        constants = options(choice, R)
        configs.append(triton.Config(constants, constants.pop("num_warps"), constants.pop("num_stages")))
    # Triton caches the fastest by these keys and the choices, so that the next process need not repeat the trials.
    return triton.autotune(configs, key=["T_PAD", "D", "d"], cache_results=True)(score_kernel)


def _grid(arguments: dict[str, Any]) -> tuple[int]:
    sides = (("n", "IMAGES"), ("m", "CAPTIONS"))
    return (math.prod(triton.cdiv(arguments[items], arguments[at_once]) for items, at_once in sides),)
