"""python compile_kernel.py '[[capability, dtype, regions, words, choices], …]': compiled records, as JSON.

choices: "all", or the numbers of some in the list that the autotuner tries. No GPU needs to be there. A program of its
own: in a process of tests, Triton may be the interpreter.
"""

import json
import sys

import torch

from caan.bench.kernel_on_paper import predict, products, programs_at_once
from caan.runtime.backends.triton.launch import choices
from caan.runtime.backends.triton.sass import compile_choice

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def main(cases):
    print(json.dumps([record for case in cases for record in usage(*case)]))


def usage(capability, dtype, regions, words, which):
    dtype = DTYPES[dtype]
    possible = choices(dtype, regions, words)
    for choice in possible if which == "all" else [possible[number] for number in which]:
        compiled = compile_choice(choice, dtype, regions, words, capability)
        counts = compiled.counts(choice, 1024, 1024)
        yield {
            "choice": str(choice),
            "spilled": compiled.stack,
            "shared": compiled.shared,
            "products": products(counts),
            "tf32": "tf32" in compiled.ptx,
            "tanh": 32 * counts["MUFU.TANH"] * choice.warps // (choice.captions * choice.images),  # of a pair
            "programs": programs_at_once(compiled, choice, capability),
            "seconds": predict(counts, choice, compiled, dtype.itemsize).expected,
        }


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
