"""Without a GPU usable by PyTorch, Triton's interpreter runs the kernel on the CPU."""

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

# Before anything imports Triton, which reads it only then.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

triton = pytest.importorskip("triton", reason="needs Triton: pip install '.[triton]'")


def _patch_once(interpreter):
    """The interpreter patches Triton's language anew whenever one device function calls another: half its time."""
    patch_lang, language = interpreter._patch_lang, (interpreter.tl, interpreter.tl.core)
    outermost = []  # the scope of the running kernel, and the modules patched in it

    class Scope(interpreter._LangPatchScope):
        def restore(self):
            super().restore()
            outermost.clear()

    def patch(function):
        if not outermost:
            outermost[:] = Scope(), set()
        scope, patched = outermost
        seen = {module for module in language if any(value is module for value in function.__globals__.values())}
        if not seen <= patched:
            scope._changes += patch_lang(function)._changes
            patched |= seen
        return scope

    interpreter._patch_lang = patch


if "TRITON_INTERPRET" in os.environ:
    from triton.runtime import interpreter

    if hasattr(interpreter, "_LangPatchScope"):  # in Triton 3.5 and newer
        _patch_once(interpreter)


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def pytest_collection_modifyitems(items):
    """If the kernel runs on a GPU, its tests here are part of `make test-gpu`."""
    if torch.cuda.is_available():
        for item in items:
            if item.path.parent == HERE:
                item.add_marker(pytest.mark.gpu)
