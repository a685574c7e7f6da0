"""README and the pages of docs/: their examples, and the files that a reader needs for them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"sh", "python", "cpp", "cmake", "json", "text"}
_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
# The bench takes minutes whatever the data, and on so few images one rank moves rsum by more than the gate allows.
_SHORTENED = """
caan-bench() { command caan-bench "$@" --quick --limit 8 --only onnxruntime; }
caan-build-engine() { command caan-build-engine "$@" --gate-rsum 600; }
"""


@dataclass(frozen=True)
class Block:
    """A fenced example."""

    language: str
    code: str
    reason: str | None  # why it can't be run by a test


def blocks(page: Path) -> Iterator[Block]:
    """A page's fenced blocks, in order."""
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        yield Block(match["language"], match["code"], match["reason"])


def run_examples(page: Path, folder: Path) -> list[str]:
    """Run a page's shell and Python examples in a folder, one after the other; the output of each."""
    return [_run(block, folder) for block in blocks(page) if block.language in ("sh", "python") and not block.reason]


def prepare(folder: Path) -> None:
    """README's prerequisites, `model.pt` and `data/`: a small world, and a CAAN trained on it for one epoch."""
    from caan.data.demo.world import write_world
    from caan.model.train import TrainOptions, train

    write_world(folder / "data", train=80, dev=8, test=24)
    options = TrainOptions(embed_dim=32, word_dim=24, attention_dim=16, epochs=1)
    train(folder / "data", folder / "model.pt", options, progress=False)


def _run(block: Block, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shell = ["bash", "-euo", "pipefail", "-c", _SHORTENED + block.code]
    done = subprocess.run(
        shell if block.language == "sh" else [sys.executable, "-c", block.code],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
    return done.stdout
