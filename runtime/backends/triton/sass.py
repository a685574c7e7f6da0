"""Compiles a choice for any GPU, present or not, and counts its resources and instructions per pair."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .kernel import score_kernel
from .launch import TL_DTYPES, Choice, options, padded_sizes

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Arguments a launch would find divisible by 16, which allows wide loads.
_DIVISIBLE = ("image_states", "image_lengths", "text_states", "text_lengths", "weights", "scores", "D", "d")
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]*)([^;]*);")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")


@dataclass(frozen=True)
class Compiled:
    """One choice compiled for one GPU; counts are instructions per warp."""

    seconds: float  # Triton's compile time
    ptx: str
    registers: int  # per thread
    stack: int  # bytes per thread spilled to memory
    shared: int  # bytes of shared memory per program
    # Instructions outside loops, per iteration of the loop over D, and of the loop over d.
    once: Counter[str]
    per_block_d: Counter[str]
    per_block_a: Counter[str]

    def counts(self, choice: Choice, D: int, d: int) -> Counter[str]:
        """Instructions of one warp for all of its program's pairs."""
        total = Counter(self.once)
        for loop, turns in ((self.per_block_d, -(-D // choice.block_d)), (self.per_block_a, -(-d // choice.block_a))):
            for instruction, count in loop.items():
                total[instruction] += count * turns
        return total


def compile_choice(choice: Choice, dtype: torch.dtype, R: int, T: int, capability: int) -> Compiled:
    """Compile a choice. capability: 90 for 9.0. Needs no GPU, but not Triton's interpreter."""
    launch = options(choice, R)
    warps, stages = launch.pop("num_warps"), launch.pop("num_stages")
    constants = {**launch, "T_PAD": padded_sizes(R, T, dtype.itemsize)[1], "DTYPE": TL_DTYPES[dtype]}
    names = score_kernel.arg_names
    types = dict.fromkeys(names, "i32") | {"scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("image_states", "text_states"), f"*{_NAMES[dtype]}")
    types |= dict.fromkeys(("image_lengths", "text_lengths"), "*i64") | dict.fromkeys(("weights", "scores"), "*fp32")
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in _DIVISIBLE}
    source = ASTSource(score_kernel, {name: types[name] for name in names}, constants, attributes)
    start = perf_counter()
    kernel = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": warps, "num_stages": stages})
    took = perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, listing = (
            _output_of(*command, file.name) for command in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK"))
    return Compiled(took, kernel.asm["ptx"], registers, stack, kernel.metadata.shared, *_by_loop(listing))


def _by_loop(listing: str) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Instructions outside loops, of the first loop, and of the second."""
    instructions: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif instruction := _INSTRUCTION.search(line):
            instructions.append((instruction[1], instruction[2]))
    loops = list(_loops(instructions, labels))
    # The loops over D and d, in the kernel's order.
    assert len(loops) == 2, loops
    counts = [Counter(_name(*one) for one in instructions[first : last + 1]) for first, last in loops]
    rest = Counter(_name(*one) for one in instructions)
    for count in counts:
        rest.subtract(count)
    return +rest, counts[0], counts[1]


def _loops(instructions: list[tuple[str, str]], labels: dict[str, int]) -> Iterator[tuple[int, int]]:
    """(first, last) instruction of the outermost loops: from the target of a backward jump to the jump."""
    jumps = []
    for at, (name, operands) in enumerate(instructions):
        target = re.search(r"\((\.L_x_\d+)\)", operands)
        # The code is padded with an instruction that jumps to itself.
        if name.startswith("BRA") and target and labels.get(target[1], at) < at:
            jumps.append((labels[target[1]], at))
    for first, last in sorted(jumps):
        if not any(start <= first and last <= end and (start, end) != (first, last) for start, end in jumps):
            yield first, last


def _name(instruction: str, operands: str) -> str:
    """The name, with what its cost depends on: a warp group's product reads its left side from registers or memory."""
    if instruction.startswith("HGMMA"):
        left = "shared" if re.match(r"\s*R\d+, gdesc", operands) else "registers"
        instruction = f"{instruction}.{left}"
    return instruction


def _output_of(tool: str, option: str, file: str) -> str:
    return subprocess.run([_TOOLS / tool, option, file], capture_output=True, text=True, check=True).stdout
