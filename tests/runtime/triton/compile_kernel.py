"""python compile_kernel.py '[capability, dtype, regions, words]': what Triton makes of every choice of choice, as JSON.

No GPU needs to be there. A program of its own: in a process of tests, Triton may be the interpreter.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from caan.runtime.triton.kernel import score_kernel
from caan.runtime.triton.launch import choices, options

TORCH_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TYPES = {"fp32": tl.float32, "fp16": tl.float16, "bf16": tl.bfloat16}
# What a launch finds out about its arguments: where they are divisible by 16, loads are wide.
DIVISIBLE = ("image_states", "image_lengths", "text_states", "text_lengths", "weights", "scores", "D", "d")


def main(capability, dtype, regions, words):
    found = [usage(capability, dtype, regions, words, own) for own in choices(TORCH_TYPES[dtype], regions, words)]
    print(json.dumps(found))


def usage(capability, dtype, regions, words, choice):
    constants = {"R_PAD": regions, "T_PAD": words, "DTYPE": TYPES[dtype]}
    constants |= options(choice)
    launch = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    names = score_kernel.arg_names
    types = dict.fromkeys(names, "i32") | {"scale": "fp32"} | dict.fromkeys(constants, "constexpr")
    types |= {"image_states": f"*{dtype}", "text_states": f"*{dtype}", "image_lengths": "*i64", "text_lengths": "*i64"}
    types |= {"weights": "*fp32", "scores": "*fp32"}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in DIVISIBLE}
    source = ASTSource(score_kernel, {name: types[name] for name in names}, constants, attributes)
    made = triton.compile(source, GPUTarget("cuda", capability, 32), launch)
    ptx = made.asm["ptx"]
    return {
        "spilled": spilled_bytes(made.asm["cubin"]),
        "shared": made.metadata.shared,
        "tensor cores": "mma" in ptx,
        "tf32": "tf32" in ptx,
    }


def spilled_bytes(cubin):
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", told.stdout)[1])


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
