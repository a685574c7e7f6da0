"""The README's shell and Python examples run as they stand, one after the other, and its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(demo_run, tmp_path_factory) -> Path:
    """What the README says the reader has: `model.pt` and `data/`."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(demo_run.checkpoint, folder / "model.pt")
    (folder / "data").symlink_to(demo_run.data)
    return folder


def test_the_examples_run_in_a_row(folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (shell,) = blocks("sh")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "onnxruntime fp32" in done.stdout and "rsum" in done.stdout
    assert re.search(r"^  3 +-?\d\.\d{4}  scene-\d{6}$", done.stdout, re.MULTILINE)
    (python,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", python], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_links_lead_to_files_and_sections():
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in README.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).is_file() if not target.startswith("#") else target[1:] in headings, target


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
