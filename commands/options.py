"""Options shared by several commands. Values are checked where they are used; messages say how to fix them."""

from __future__ import annotations

import re
from pathlib import Path

import click

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 an accuracy gate failed, 4 something missing here,"
    " 128 + N ended by signal N."
)

PATH = click.Path(path_type=Path)
bundle = click.argument("bundle", type=PATH, required=False)
data = click.option("--data", type=PATH, metavar="DIR", help="A data set in SCAN's format.")
split = click.option("--split", default="test", show_default=True, help="The data set's split.")
limit = click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="Only N images of the data set, with their captions."
)
backend = click.option(
    "--backend", default="auto", show_default=True, help="native, onnxruntime, tensorrt, triton, torch or auto."
)
device = click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
precision = click.option("--precision", default="fp32", show_default=True, help="A precision of the bundle, or bf16.")
threads = click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads per scorer call.  [default: OMP_NUM_THREADS, else all cores available to this process]",
)
trust_engines = click.option(
    "--trust-engines", is_flag=True, help="Also run engines that were not built here; engines are executable code."
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace the output if it exists.")
tokens = click.option(
    "--tokens",
    metavar="FILE",
    help="Captions tokenized already, one per line: words with spaces between, or JSON lists of words (.jsonl).",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
checkpoint = click.option("--checkpoint", type=PATH, metavar="FILE", help="The bundle's model.pt, if it was moved.")


def grid(text: str) -> tuple[int, int]:
    """Option type: ROWSxCOLUMNS, as 6x6 → two numbers."""
    sizes = re.fullmatch(r"([1-9][0-9]{0,3})[x×]([1-9][0-9]{0,3})", text.strip().lower())
    if sizes is None:
        raise click.BadParameter(f"'{text[:40]}' is not ROWSxCOLUMNS, as 6x6", param_hint="--grid")
    return int(sizes[1]), int(sizes[2])
