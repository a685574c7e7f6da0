"""Calls to NVIDIA's Python bindings: the real cuda-core and cuda-bindings on a stand-in driver.

A machine without a GPU has no driver library; stand_in_driver.c is built as one. It says nothing of what a GPU does,
but every call must be one that the installed bindings have, with arguments that they take.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("stand_in_driver.c")
COMPILER = shutil.which("cc")

pytest.importorskip("cuda.core", reason="needs the extra rtx or gpu")
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C compiler"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the driver's library has another name here"),
]


@pytest.fixture(scope="module")
def driver(make_once) -> Path:
    def build(folder):
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", SOURCE], check=True)

    return make_once("stand-in-driver", build)


@pytest.fixture
def with_driver(driver):
    """with_driver(code): run Python with an open Gpu `gpu` and the stand-in `driver`; returns its output."""
    start = (
        "import ctypes, gc, threading\n"
        "import numpy as np\n"
        "from caan.runtime.backends.tensorrt.cuda import Gpu\n"
        "driver = ctypes.CDLL('libcuda.so.1')\n"
        "count = lambda name: ctypes.c_int.in_dll(driver, name).value\n"
        "gpu = Gpu.open()\n"
    )

    def run(code):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
        done = subprocess.run(
            [sys.executable, "-c", start + code], capture_output=True, text=True, env=environment, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split("\n")[:-1]

    return run


def test_the_gpu_says_what_it_is(with_driver):
    assert with_driver("print(gpu.name, gpu.capability, gpu.free_bytes())") == [f"Stand-in 8.6 {1 << 33}"]


def test_bytes_travel_to_the_device_and_back(with_driver):
    code = """
copies, compute, event = gpu.stream(), gpu.stream(), gpu.event()
there, back, memory = gpu.pin(64), gpu.pin(100), gpu.allocate(1000)
there.bytes[:] = np.arange(64)
gpu.upload(memory.address + 256, there.address, 64, copies)
copies.record(event)
compute.wait(event)
gpu.download(back.address, memory.address + 256, 64, compute)
compute.record(event)
event.sync()
copies.sync()
print((back.bytes[:64] == there.bytes).all(), memory.address % 256, memory.size, int(compute.handle) > 0)
"""
    assert with_driver(code) == ["True 0 1000 True"]


def test_memory_is_freed_with_its_object_in_whatever_thread(with_driver):
    code = """
held = [gpu.allocate(10), gpu.pin(10), gpu.allocate(0)]
def free():
    held.clear()
    gc.collect()
thread = threading.Thread(target=free)
thread.start()
thread.join()
print(count("allocations"), count("frees"))
"""
    assert with_driver(code) == ["3 3"]


def test_a_thread_enters_before_any_other_call(with_driver):
    code = """
def work():
    try:
        gpu.allocate(10)
    except Exception as error:
        print(type(error).__name__, error)
    gpu.enter()
    print(gpu.allocate(10).size)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    output = with_driver(code)
    assert output == ["CaanError CUDA's cuMemAlloc failed on Stand-in: invalid device context", "10"]


def test_too_little_memory_is_an_error_that_says_so(with_driver):
    code = """
try:
    gpu.allocate(1 << 34)
except Exception as error:
    print(type(error).__name__, error)
"""
    (output,) = with_driver(code)
    assert output.startswith("CaanError CUDA's cuMemAlloc failed on Stand-in: out of memory (close other programs")


def test_a_graph_is_captured_and_launched(with_driver):
    code = """
stream, calls = gpu.stream(), []
def enqueue():
    calls.append(1)
    return True
graph = gpu.capture(stream, enqueue)
print(len(calls), count("launches"))
graph.launch(stream)
graph.launch(stream)
print(len(calls), count("launches"))
"""
    assert with_driver(code) == ["1 0", "1 2"]


def test_what_can_not_be_captured_gives_no_graph_and_no_error(with_driver):
    code = """
stream = gpu.stream()
def breaks():
    driver.break_capture()
    return True
def fails():
    raise RuntimeError
print([gpu.capture(stream, run) for run in (lambda: False, breaks, fails)])
print(gpu.capture(stream, lambda: True) is not None)
"""
    assert with_driver(code) == ["[None, None, None]", "True"]
