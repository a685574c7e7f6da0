"""Estimate the GPU kernel's speed for each choice from machine code: `python -m caan.bench.kernel_on_paper`.

Needs Triton and PyTorch, no GPU. Every choice is compiled for each compute capability with Triton's own assembler. The
instructions per pair are counted, those of loops times their iterations, and an H200's time for 1,000 × 5,000 pairs
follows from the throughput of each unit. The slowest unit is the bound. If an H200 takes much longer than `expected`,
or another choice is fastest, the numbers below are wrong.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CaanError, MissingError, needs
from .gpu_kernel import PAPER
from .synthetic import PAPER_DIM

# Compute capability → bytes of shared memory per program and per SM; threads per SM.
GPUS = {
    90: (227 << 10, 228 << 10, 2048),  # H100, H200
    80: (163 << 10, 164 << 10, 2048),  # A100
    89: (99 << 10, 100 << 10, 1536),  # L40, RTX 40
    120: (99 << 10, 100 << 10, 1536),  # RTX 50, RTX PRO
}
_DTYPES = ("float16", "bfloat16", "float32")
_REGISTERS = 1 << 16  # per SM
_RESERVED = 1 << 10  # bytes of shared memory reserved by the system per program

# An H200: 132 SMs at 1.98 GHz. Throughput of its units per clock and SM, from NVIDIA's programming guide (throughput of
# native arithmetic instructions, 9.0) unless another source is named.
_PROCESSORS, _CLOCK = 132, 1.98e9
_WARP = 32
_ISSUED = 4  # warp instructions
_SPECIAL = 16  # numbers: tanh, exp2, 1/x, 1/√x
_FLOAT = 128  # numbers: additions, multiplications
_INTEGER = 64  # numbers: integers, comparisons, moves of bytes, roundings to 16 bits
_SHARED = 128  # bytes, of shared memory and the L1 cache
_SHUFFLED = 32  # numbers passed between threads, by the same unit
_MULTIPLY_ADDS = 2048  # of 16-bit numbers by tensor cores: 1,070 TFLOP/s
_WARP_GROUPS = 790 / 1070  # share of these for `wgmma`: cuBLAS's best, as measured on the H200
_SINGLE_WARPS = 0.63  # for `mma.sync`: Luo et al., arXiv 2402.13499
_L2 = 28  # bytes from the L2 cache: 5.6 TB/s of 114 SMs at 1.755 GHz (chipsandcheese.com, H100 PCIe)

_UNITS = ("tensor cores", "special functions", "float", "integer", "shared memory", "L2", "issue")


@dataclass(frozen=True)
class Prediction:
    """A choice on an H200, in clocks of an SM per pair."""

    clocks: Mapping[str, float]  # of each unit
    programs: int  # resident per SM; 0 if none fits
    warps: int  # resident per SM

    @property
    def binding(self) -> str:
        return max(self.clocks, key=lambda unit: self.clocks[unit])

    @property
    def least(self) -> float:
        """Seconds if the slowest unit never stalls."""
        return _seconds(self.clocks[self.binding])

    @property
    def expected(self) -> float:
        """Seconds if prefetched data never stalls, and a scheduler's other warps hide the rest."""
        units = [clocks for unit, clocks in self.clocks.items() if unit not in ("L2", "issue")]
        waiting = (sum(units) - max(units)) * _ISSUED / max(self.warps, _ISSUED)
        return _seconds(max(max(units) + waiting, self.clocks["L2"], self.clocks["issue"]))


def predict(counts: Counter[str], choice: Any, compiled: Any, itemsize: int, dim: int = PAPER_DIM) -> Prediction:
    """counts: of one warp of a program."""
    programs = programs_at_once(compiled, choice, 90)
    warps_per_pair = choice.warps / (choice.captions * choice.images)
    clocks = dict.fromkeys(_UNITS, 0.0)
    for instruction, count in counts.items():
        for unit, cost in _costs(instruction):
            clocks[unit] += cost * count * warps_per_pair
        clocks["issue"] += count * warps_per_pair / _ISSUED
    # Whole rows of both states, once per program; padding is not loaded.
    loaded = 5 * PAPER.regions * dim / choice.captions + 4 * PAPER.words * dim / choice.images
    clocks["L2"] = loaded * itemsize / _L2
    return Prediction(clocks, programs, programs * choice.warps)


def programs_at_once(compiled: Any, choice: Any, capability: int) -> int:
    """Resident programs per SM, as registers, shared memory and threads allow."""
    most, shared, threads = GPUS[capability]
    if compiled.shared > most:
        return 0
    registers = -(-compiled.registers // 8) * 8 * _WARP * choice.warps
    return int(min(_REGISTERS // registers, shared // (compiled.shared + _RESERVED), threads // (_WARP * choice.warps)))


def _costs(instruction: str) -> Iterator[tuple[str, float]]:
    """(unit, clocks of an SM) of one warp instruction."""
    name, *parts = instruction.split(".")
    if name == "HMMA":
        # m16n8k8 and m16n8k16: 16 rows, 8 columns, then the depth; half the depth for TF32
        depth = int(parts[0][3:])
        yield "tensor cores", 16 * 8 * depth / _MULTIPLY_ADDS / _SINGLE_WARPS
    elif name == "HGMMA":
        rows, columns, depth = map(int, parts[0].split("x"))
        # Four warps issue one product.
        yield "tensor cores", rows * columns * depth / 4 / _MULTIPLY_ADDS / _WARP_GROUPS
        read = columns * depth + (rows * depth if parts[-1] == "shared" else 0)
        yield "shared memory", 2 * read / 4 / _SHARED
    elif name == "MUFU":
        yield "special functions", _WARP / _SPECIAL
    elif name in ("FADD", "FMUL", "FFMA", "HADD2", "HMUL2", "HFMA2", "FADD2", "FMUL2", "FFMA2"):
        yield "float", _WARP / _FLOAT
    elif name == "SHFL":
        yield "shared memory", _WARP / _SHUFFLED
    elif name in ("LDS", "STS", "LDG", "STG", "LDGSTS", "LDL", "STL"):
        bits = next((int(part) for part in parts if part in ("64", "128")), 32)
        yield "shared memory", _WARP * bits / 8 / _SHARED
    elif name in ("LDSM", "STSM"):
        matrices = int(parts[-1]) if parts[-1].isdigit() else 1  # of 8 × 8, 128 bytes each
        yield "shared memory", matrices * 128 / _SHARED
    elif name[0] != "U" and name not in (
        "BRA",
        "BAR",
        "LDGDEPBAR",
        "DEPBAR",
        "WARPGROUP",
        "LDC",
        "LDCU",
        "NOP",
        "EXIT",
    ):
        yield "integer", _WARP / _INTEGER


def _seconds(clocks: float) -> float:
    return PAPER.images * PAPER.captions * clocks / _PROCESSORS / _CLOCK


def main() -> int:
    try:
        for line in tables(lambda message: print(message, file=sys.stderr)):
            print(line)
    except CaanError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def tables(progress: Callable[[str], None], regions: int = PAPER.regions, words: int = PAPER.words) -> Iterator[str]:
    """Lines of Markdown. Raises MissingError without PyTorch or Triton, or in Triton's interpreter."""
    with needs("triton", "the kernel on paper"):
        import torch

        from ..runtime.backends.triton.launch import INTERPRETED, choices
        from ..runtime.backends.triton.sass import compile_choice
    if INTERPRETED:
        raise MissingError("Triton's interpreter compiles nothing; unset TRITON_INTERPRET")
    for name in _DTYPES:
        dtype = getattr(torch, name)
        kernels = {}
        for choice in choices(dtype, regions, words):
            for capability in GPUS:
                progress(f"{name}, {capability / 10}: {choice}")
                kernels[choice, capability] = compile_choice(choice, dtype, regions, words, capability)
        yield f"**{name}** on an H200, {PAPER.images:,} × {PAPER.captions:,} pairs at D = d = {PAPER_DIM:,}:"
        yield from ("", *_on_h200(kernels, dtype.itemsize), "", "On other GPUs:", "", *_elsewhere(kernels), "")


def _on_h200(kernels: Mapping[tuple[Any, int], Any], itemsize: int) -> Iterator[str]:
    yield from _header(
        ["choice", "registers", "spilled", "shared, KiB", "warps", "tensor cores", *(f"{u}, s" for u in _UNITS),
         "binds", "least, s", "expected, s", "compiled, s"]
    )  # fmt: skip
    for choice, capability in kernels:
        if capability != 90:
            continue
        compiled = kernels[choice, capability]
        counts = compiled.counts(choice, PAPER_DIM, PAPER_DIM)
        result = predict(counts, choice, compiled, itemsize)
        yield _row(
            [label(choice), compiled.registers, compiled.stack, round(compiled.shared / 1024), result.warps,
             products(counts), *(f"{_seconds(result.clocks[unit]):.3f}" for unit in _UNITS),
             result.binding, f"{result.least:.2f}", f"{result.expected:.2f}", f"{compiled.seconds:.0f}"]
        )  # fmt: skip


def _elsewhere(kernels: Mapping[tuple[Any, int], Any]) -> Iterator[str]:
    others = [capability for capability in GPUS if capability != 90]
    yield _row(["choice", *(f"{capability / 10}: registers, spilled, KiB, warps" for capability in others)])
    yield _row(["---"] * (len(others) + 1))
    for choice in dict.fromkeys(choice for choice, _ in kernels):
        cells = []
        for capability in others:
            one = kernels[choice, capability]
            warps = programs_at_once(one, choice, capability) * choice.warps
            cells.append(f"{one.registers}, {one.stack}, {round(one.shared / 1024)}, {warps or '–'}")
        yield _row([label(choice), *cells])


def products(counts: Counter[str]) -> str:
    """A choice's tensor-core instructions."""
    kinds = {"HGMMA": "wgmma", "HMMA": "mma"}
    return " + ".join(kinds[kind] for kind in kinds if any(name.startswith(kind) for name in counts)) or "none"


def label(choice: Any) -> str:
    """images × captions, block of D / block of d, warps, stages; `whole` if regions are not split."""
    text = (
        f"{choice.images} × {choice.captions}, {choice.block_d}/{choice.block_a}, {choice.warps} w, {choice.stages} st"
    )
    return text if choice.split else f"{text}, whole"


def _header(cells: list[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---"] * len(cells))


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    sys.exit(main())
