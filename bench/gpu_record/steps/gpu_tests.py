"""`pytest -m gpu`, on all cores if pytest-xdist is installed; results so far are kept if time runs out."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ...._machine import cpu_count
from ....errors import CaanError, MissingError
from ..plan import Put, StepSettings

ROOT = Path(__file__).resolve().parents[3]
# Only files with GPU tests: others may import packages that such a machine lacks. GPU-only files first.
_FILES = (
    "tests/runtime/backends/*/test_on_gpu.py",
    "tests/bench/test_gpu_kernel.py",
    "tests/runtime/backends/triton/test_*.py",
)
_MOST_PROCESSES = 8
# "tests/a.py::b[1 2] PASSED [ 50%]"; from pytest-xdist "[gw0] [ 50%] PASSED tests/a.py::b[1 2]"
_OUTCOME = re.compile(r"(?:\[gw\d+\] \[.{4}\] (?P<early>[A-Z]+) )?(?P<test>tests/.+?)(?: (?P<late>[A-Z]{4,}).*)?")
_WORDS = ("PASSED", "FAILED", "ERROR", "SKIPPED")


def run(settings: StepSettings, put: Put) -> None:
    """A row of counts, one row for each failed test, one for each skip reason."""
    if find_spec("pytest") is None:
        raise MissingError("pytest is not installed")
    files = dict.fromkeys(str(file) for pattern in _FILES for file in sorted(ROOT.glob(pattern)))
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider", *files]
    if find_spec("xdist") and not settings.rehearse:
        command += ["-n", str(min(_MOST_PROCESSES, cpu_count()))]
    counts = dict.fromkeys(_WORDS, 0)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("SKIPPED ["):
            put(line.strip()[:200], {})
        elif (match := _OUTCOME.fullmatch(line.rstrip())) and (word := match["early"] or match["late"]) in counts:
            counts[word] += 1
            put("tests", {"ok": not counts["FAILED"] + counts["ERROR"], **{w.lower(): n for w, n in counts.items()}})
            if word in ("FAILED", "ERROR"):
                put(match["test"], {"ok": False})
    code = process.wait()
    if code not in (0, 1, 5):  # 5: no test was found
        raise CaanError(f"pytest ended with exit code {code}; see the log")
    if not any(counts.values()):
        raise CaanError("pytest found no test that needs a GPU")
