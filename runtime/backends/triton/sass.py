"""What Triton and its assembler make of a choice for a GPU that need not be there: resources, instructions a pair."""

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
# What a launch finds out about its arguments: where they are divisible by 16, loads are wide.
_DIVISIBLE = ("image_states", "image_lengths", "text_states", "text_lengths", "weights", "scores", "D", "d")
_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.x]*)([^;]*);")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")


@dataclass(frozen=True)
class Compiled:
    """One choice for one GPU; counts are of a warp's instructions."""

    seconds: float  # that Triton took
    ptx: str
    registers: int  # of a thread
    stack: int  # bytes of a thread that lie in memory: what was spilled
    shared: int  # bytes of a program
    # Instructions outside of loops, of the loop over D (a block a turn), and of the loop over d.
    once: Counter[str]
    per_block_d: Counter[str]
    per_block_a: Counter[str]

    def counts(self, choice: Choice, D: int, d: int) -> Counter[str]:
        """Instructions of one warp while its program scores its captions."""
        total = Counter(self.once)
        for loop, turns in ((self.per_block_d, -(-D // choice.block_d)), (self.per_block_a, -(-d // choice.block_a))):
            for instruction, count in loop.items():
                total[instruction] += count * turns
        return total


def compile_choice(choice: Choice, dtype: torch.dtype, R: int, T: int, capability: int) -> Compiled:
    """capability: as 90 for 9.0. Needs no GPU; Triton must not be its interpreter."""
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
    made = triton.compile(source, GPUTarget("cuda", capability, 32), {"num_warps": warps, "num_stages": stages})
    took = perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage, listing = (
            _told(*command, file.name) for command in (("cuobjdump", "--dump-resource-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK"))
    return Compiled(took, made.asm["ptx"], registers, stack, made.metadata.shared, *_by_loop(listing))


def _by_loop(listing: str) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Instructions outside of loops, of the first loop, and of the second."""
    instructions: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.search(line):
            instructions.append((found[1], found[2]))
    loops = list(_loops(instructions, labels))
    # The one that is over columns of d has the tanh of Zv and Zu; a GPU's code has both in the kernel's order.
    assert len(loops) == 2, loops
    counts = [Counter(_name(*one) for one in instructions[first : last + 1]) for first, last in loops]
    rest = Counter(_name(*one) for one in instructions)
    for own in counts:
        rest.subtract(own)
    return +rest, counts[0], counts[1]


def _loops(instructions: list[tuple[str, str]], labels: dict[str, int]) -> Iterator[tuple[int, int]]:
    """(first, last) of the outermost loops: from where a jump backwards goes to the jump."""
    found = []
    for at, (name, operands) in enumerate(instructions):
        target = re.search(r"\((\.L_x_\d+)\)", operands)
        # Behind its end, code is filled up by an instruction that jumps to itself.
        if name.startswith("BRA") and target and labels.get(target[1], at) < at:
            found.append((labels[target[1]], at))
    for first, last in sorted(found):
        if not any(start <= first and last <= end and (start, end) != (first, last) for start, end in found):
            yield first, last


def _name(instruction: str, operands: str) -> str:
    """With what tells its cost: a warp group's products may have their left side in registers or in shared memory."""
    if instruction.startswith("HGMMA"):
        left = "shared" if re.match(r"\s*R\d+, gdesc", operands) else "registers"
        instruction = f"{instruction}.{left}"
    return instruction


def _told(tool: str, option: str, file: str) -> str:
    return subprocess.run([_TOOLS / tool, option, file], capture_output=True, text=True, check=True).stdout
