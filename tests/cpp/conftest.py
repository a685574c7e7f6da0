"""The C++ library beside the Python package: each test asks both the same.

Without the library they skip, but not where CAAN_CPP_REQUIRED is set, as `make test-cpp` does. CAAN_CPP_LIBRARY names
the library; that of a build with AddressSanitizer needs LD_PRELOAD, see the Makefile.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from caan.runtime import Retriever
from tests.conftest import DemoRun

CPP = Path(__file__).parents[2] / "cpp"


@pytest.fixture(scope="session")
def unavailable() -> Callable[[str], None]:
    """unavailable(reason): skip, or fail if everything is required."""
    return pytest.fail if os.environ.get("CAAN_CPP_REQUIRED") else pytest.skip


@pytest.fixture(scope="session")
def caan_c() -> ModuleType:
    """cpp/examples/caan_ctypes.py"""
    spec = importlib.util.spec_from_file_location("caan_ctypes", CPP / "examples" / "caan_ctypes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def library(caan_c, unavailable):
    path = Path(os.environ.get("CAAN_CPP_LIBRARY", CPP / "build-release" / "libcaan.so"))
    if not path.is_file():
        unavailable(f"needs the C++ library, {path}; make test-cpp builds it")
    return caan_c.load(str(path))


BACKENDS = ["onnxruntime", "native"]


@pytest.fixture(scope="session")
def open_both(caan_c, library, unavailable):
    """open_both(bundle, precision, backend): Python's retriever and C++'s, on the CPU."""

    def both(bundle, precision="fp32", backend="onnxruntime"):
        if backend == "native":
            need_native(unavailable)
        ours = Retriever.open(bundle, backend, precision, device="cpu")
        options = {"backend": backend, "precision": precision, "device": "cpu", "threads": 2}
        return ours, caan_c.Retriever(library, str(bundle), **options)

    return both


@pytest.fixture(scope="session")
def demo_run(make_once) -> DemoRun:
    """As the package's, but in a separate process, since PyTorch is slow under a sanitizer."""
    code = "from caan.data.demo.world import write_world; from caan.model.train import train; from pathlib import Path"
    code += "; write_world(Path('world')); train(Path('world'), Path('model.pt'))"
    folder = make_once("demo", lambda folder: run_plainly(sys.executable, "-c", code, cwd=folder), kept=True)
    return DemoRun(folder / "world", folder / "model.pt")


@pytest.fixture(scope="session")
def demo_bundle(make_once, demo_run) -> Path:
    return make_once("demo-bundle", lambda folder: export(demo_run.checkpoint, folder), kept=True) / "model.caan"


@pytest.fixture(scope="session")
def demo_precisions(make_once, demo_bundle, demo_run) -> Path:
    """The demo's bundle with FP16 and INT8 graphs and their engines for TensorRT for RTX."""

    def make(folder: Path) -> None:
        bundle = shutil.copytree(demo_bundle, folder / "model.caan")
        for options in (["--fp16"], ["--int8", "--calibration-data", demo_run.data, "--keep-failed"]):
            build = Path(sys.executable).with_name("caan-build-engine")
            run_plainly(build, bundle, *options, "--target", "tensorrt-rtx")

    return make_once("demo-precisions", make) / "model.caan"


@pytest.fixture(scope="session")
def flickr8k_bundle(make_once, flickr8k) -> Path:
    folder = make_once("flickr8k", lambda folder: export(flickr8k / "model.pt", folder), kept=True)
    return folder / "model.caan"


@pytest.fixture(scope="session")
def installed(tmp_path_factory, unavailable) -> Path:
    """Where `cmake --install` put the library, from the build that CAAN_CPP_BUILD names."""
    build = Path(os.environ.get("CAAN_CPP_BUILD", CPP / "build-release"))
    if not (build / "cmake_install.cmake").is_file() or shutil.which("cmake") is None:
        unavailable(f"needs CMake and a build of the C++ library, {build}; make test-cpp has both")
    prefix = tmp_path_factory.mktemp("installed") / "prefix"
    subprocess.run(
        ["cmake", "--install", build, "--prefix", prefix], check=True, capture_output=True, env=plain_environment()
    )
    return prefix


def need_native(unavailable: Callable[[str], None]) -> None:
    """Skip, or fail, without caan_native, the reference for C++."""
    if importlib.util.find_spec("caan_native") is None:
        unavailable("needs the package caan_native; make native builds it")


def export(checkpoint: Path, folder: Path) -> None:
    run_plainly(Path(sys.executable).with_name("caan-export"), checkpoint, "-o", folder / "model.caan")


def run_plainly(*command: object, **options: object) -> str:
    """A program's standard output, run without a sanitizer; fails the test with its messages."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, env=plain_environment(), **options)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def plain_environment() -> dict[str, str]:
    """Environment without a sanitizer, for compilers and other programs than the library under test."""
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
