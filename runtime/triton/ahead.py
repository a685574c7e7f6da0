"""The kernel as PTX, compiled before there is anything to score: for TensorRT's engines, which launch it themselves.

An engine takes captions of any length, and has one kernel for all of them: it holds the scorer once for each width
that captions are padded to, and a launch takes the narrowest that its captions fit in.
"""

# Triton reads this source: `from __future__ import annotations` would hide its constexpr annotations.
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, ptx_get_version
from triton.compiler import ASTSource

from ...errors import CaanError
from .kernel import score_kernel
from .launch import TL_DTYPES, Choice, TooLargeError, choices, padded_sizes, region_parts

# Precision → type of states and products.
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}

# Bytes of shared memory that a program may have on GPUs that allow more than the smallest, by compute capability.
_SHARED = {80: 163 << 10, 87: 163 << 10, **dict.fromkeys((90, 100, 103, 110), 227 << 10)}
_LEAST_SHARED = 99 << 10
# So much any launch may have. For more the launcher must ask the driver, and TensorRT does not say whether it does.
_SHARED_UNASKED = 48 << 10
_STAGES = 2  # with more, no choice does with so little

# TensorRT's tensors begin at multiples of 256 bytes, so that wide loads are possible.
_POINTERS = ("image_states", "image_lengths", "text_states", "text_lengths", "weights", "scores")


class AheadKernel(NamedTuple):
    """The kernel for one GPU and one choice of blocks."""

    name: str  # of the PTX's entry
    ptx: str
    # The narrowest first: (words, captions that a program scores where no caption has more words). Grid:
    # (images · ⌈captions / that⌉,)
    widths: Sequence[tuple[int, int]]
    threads: int  # of a program
    shared: int  # bytes of a program's shared memory


def compile_ahead(
    shape: tuple[int, int],
    scale: float,
    regions: int,
    words: Iterable[int],
    precision: str,
    capability: tuple[int, int],
    cuda: tuple[int, int],
) -> list[AheadKernel]:
    """`engine_kernel`, once for each choice of blocks that is worth a trial.

    shape: the model's (D, d); scale: λ; regions: the most of an image; words: lengths that captions may have, the most
    among them, each of which gets a width of its own; precision: "fp32" or "fp16"; capability: the GPU's; cuda: the
    newest version of CUDA that its driver knows, as (13, 0), which limits the PTX's. Where some choices get along
    without asking the driver for more shared memory, only those. Raises TooLargeError if no choice fits the GPU.
    """
    dtype = DTYPES[precision]
    padded = sorted({padded_sizes(regions, length, dtype.itemsize)[1] for length in words})
    arch = 10 * capability[0] + capability[1]
    # Triton writes PTX of the version of its own ptxas, which may be newer than the driver.
    version = min(ptx_get_version("{}.{}".format(*cuda)), ptx_get_version(get_ptxas(arch).version))
    R_HIGH, R_LOW = region_parts(regions, True)
    model = {"D": shape[0], "d": shape[1], "SCALE": scale, "R_HIGH": R_HIGH, "R_LOW": R_LOW, "DTYPE": TL_DTYPES[dtype]}
    made = [
        _compile(model, widths, precision, GPUTarget("cuda", arch, 32), version)
        for widths in _choices(dtype, regions, padded)
    ]
    fitting = [kernel for kernel in made if kernel.shared <= _SHARED.get(arch, _LEAST_SHARED)]
    if not fitting:
        raise TooLargeError
    return [kernel for kernel in fitting if kernel.shared <= _SHARED_UNASKED] or fitting


@triton.jit  # type: ignore[untyped-decorator]
def engine_kernel(  # type: ignore[no-untyped-def]  # Triton's language has no types of Python's
    image_states,
    image_lengths,
    text_states,
    text_lengths,
    weights,
    n,
    m,
    R,
    T,
    scores,
    D: tl.constexpr,
    d: tl.constexpr,
    SCALE: tl.constexpr,
    R_HIGH: tl.constexpr,
    R_LOW: tl.constexpr,
    WIDTHS: tl.constexpr,  # ((words that are too few for it, T_PAD, CAPTIONS, BLOCK_D, BLOCK_A, STAGES), …)
    DTYPE: tl.constexpr,
):
    """`score_kernel` with its arguments in TensorRT's order: inputs, sizes that only a call knows, outputs."""
    for i in tl.static_range(len(WIDTHS)):
        if (WIDTHS[i][0] < T) & (WIDTHS[i][1] >= T):
            score_kernel(
                image_states,
                image_lengths,
                text_states,
                text_lengths,
                weights,
                n,
                m,
                R,
                T,
                D,
                d,
                SCALE,
                scores,
                R_HIGH,
                R_LOW,
                WIDTHS[i][1],
                1,
                WIDTHS[i][2],
                WIDTHS[i][3],
                WIDTHS[i][4],
                WIDTHS[i][5],
                DTYPE,
            )


def _choices(dtype: torch.dtype, regions: int, widths: Sequence[int]) -> Iterator[dict[int, Choice]]:
    """{width: choice}, of as many warps for all widths: each choice for the widest, with each for the narrowest."""
    possible = {T_PAD: _worth_building(choices(dtype, regions, T_PAD)) for T_PAD in widths}
    for widest in possible[widths[-1]]:
        # What fits in registers at the widest does at every other.
        same = {T_PAD: [c for c in possible[T_PAD] if c.warps == widest.warps] or [widest] for T_PAD in widths}
        for narrowest in same[widths[0]] if len(widths) > 1 else [widest]:
            yield {**{T_PAD: own[0] for T_PAD, own in same.items()}, widths[0]: narrowest, widths[-1]: widest}


def _worth_building(possible: list[Choice]) -> list[Choice]:
    """Those of one image, with little shared memory."""
    return [choice for choice in possible if choice.split and choice.images == 1 and choice.stages <= _STAGES]


def _compile(
    model: Mapping[str, object], choice: Mapping[int, Choice], precision: str, target: GPUTarget, ptx_version: int
) -> AheadKernel:
    *_, widest = choice.values()
    too_few = [0, *choice]
    widths = [
        (few, T_PAD, own.captions, own.block_d, own.block_a, own.stages)
        for few, (T_PAD, own) in zip(too_few, choice.items(), strict=False)
    ]
    constants = {**model, "WIDTHS": tuple(widths)}
    names = engine_kernel.arg_names
    types = dict.fromkeys(names, "i32") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("image_states", "text_states"), f"*{precision}")
    types |= dict.fromkeys(("image_lengths", "text_lengths"), "*i64") | dict.fromkeys(("weights", "scores"), "*fp32")
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in _POINTERS}
    launch = {"num_warps": widest.warps, "num_stages": widest.stages, "ptx_version": ptx_version}
    made = triton.compile(ASTSource(engine_kernel, types, constants, divisible), target, launch)
    info = made.metadata
    # The entry's last two parameters point to scratch memory. TensorRT passes null for what it was not told of.
    if info.global_scratch_size or info.profile_scratch_size:
        raise CaanError(
            f"triton {triton.__version__} makes a kernel that wants scratch memory, which TensorRT does not give;"
            " leave out --fused-scorer"
        )
    captions = [(T_PAD, own.captions) for T_PAD, own in choice.items()]
    return AheadKernel(info.name, made.asm["ptx"], captions, 32 * info.num_warps, info.shared)
