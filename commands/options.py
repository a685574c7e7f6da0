"""Options shared by several commands. Values are checked where they are used; messages say how to fix them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import DataError

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


def scan_family(command: Callable[..., None]) -> Callable[..., None]:
    """The options named as the fields of `model.checkpoint.ScanOptions`."""
    for option in reversed(
        [
            click.option(
                "--vocab",
                "vocabulary",
                type=PATH,
                metavar="FILE",
                help="Vocabulary, JSON or pickled; for SCAN-family checkpoints.",
            ),
            click.option(
                "--tokenizer", help="Of --vocab: nltk, word-punct or whitespace.  [default: the file's, or nltk]"
            ),
            click.option(
                "--key-map", type=PATH, metavar="FILE", help="JSON {our name: their name}; for SCAN-family checkpoints."
            ),
            click.option(
                "--attention-scale",
                type=float,
                metavar="λ",
                help="For SCAN-family checkpoints.  [default: the file's, or 1]",
            ),
            click.option(
                "--allow-vocab-mismatch",
                is_flag=True,
                help="Accept a vocabulary of another size than the embedding, for those who know why.",
            ),
        ]
    ):
        command = option(command)
    return command


def check_scan_files(vocabulary: Path | None, key_map: Path | None, **others: Any) -> None:
    """Raise DataError if a file that these options name is missing: a cheap check before PyTorch is imported."""
    for file, what in ((vocabulary, "vocabulary"), (key_map, "key map")):
        if file is not None and not file.exists():
            raise DataError(f"can't read the {what} {file}: there is no such file")


def grid(text: str) -> tuple[int, int]:
    """Option type: ROWSxCOLUMNS, as 6x6 → two numbers."""
    sizes = re.fullmatch(r"([1-9][0-9]{0,3})[x×]([1-9][0-9]{0,3})", text.strip().lower())
    if sizes is None:
        raise click.BadParameter(f"'{text[:40]}' is not ROWSxCOLUMNS, as 6x6", param_hint="--grid")
    return int(sizes[1]), int(sizes[2])
