"""README's examples run unchanged, one after the other; it stays short, and says what has run on a GPU."""

import re

import pytest

from tests.pages import README, ROOT, blocks


@pytest.mark.slow
def test_the_examples_run_in_a_row(reader):
    shell, python = reader.printed
    assert "onnxruntime fp32" in shell and "rsum" in shell
    assert re.search(r"^  3 +-?\d\.\d{4}  scene-\d{6}$", shell, re.MULTILINE)
    assert len(python.splitlines()) == 3


def test_it_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
    assert [block.language for block in blocks(README) if not block.reason] == ["sh", "python", "cpp"]


def test_the_first_screen_says_what_has_run_on_no_gpu():
    top = README.read_text(encoding="utf-8").splitlines()[:45]
    assert any("`tensorrt` and `triton`" in line and "has run on no GPU yet" in line for line in top)
    assert any("make gpu-record" in line for line in top)


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([\w-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"demo", "test", "docs", "gpu-record"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
