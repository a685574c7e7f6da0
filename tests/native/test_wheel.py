"""The distribution: a wheel built from its sources alone, in a fresh environment. A minute: for `make test-cpp`."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIGHWAY = Path(os.environ.get("HIGHWAY_ROOT", ROOT / ".venv" / "highway"))
USE = """
import numpy, caan_native
scorer = caan_native.Scorer(1, 1, 1.0, *numpy.ones((2, 1), "float32"), "fp32", 2)
images = numpy.full((4, 5), 2, "float32"), numpy.array([0, 3]), numpy.array([3, 1])
captions = numpy.full((2, 4), 3, "float32"), numpy.array([0]), numpy.array([2])
scores = numpy.zeros((2, 1), "float32")
scorer.score(*images, *captions, scores)
print(scores.tolist(), caan_native.__file__)
"""


@pytest.mark.skipif(not os.environ.get("CAAN_WHEEL"), reason="takes a minute; make test-cpp runs it")
def test_a_wheel_built_in_a_clean_folder_works_in_a_fresh_environment(tmp_path):
    sources = tmp_path / "sources"
    # As in an sdist: `kernels`, a link to the folder beside it, is a folder there.
    shutil.copytree(ROOT / "cpp" / "python", sources, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / "bin" / "python"
    # Older versions of pip read one variable, newer ones the other, for the packages of a build.
    constraints = {name: str(ROOT / "constraints.txt") for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT")}
    # pip must run without the sanitizers of the C++ tests.
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | constraints
    define = ["-C", f"cmake.define.hwy_DIR={HIGHWAY / 'lib' / 'cmake' / 'hwy'}"] if HIGHWAY.is_dir() else []

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # The kernels of all instruction sets, optimized, are what make native builds and tests.
    define += ["-C", "cmake.build-type=Debug"]
    environment["CXXFLAGS"] = "-DHWY_COMPILE_ONLY_STATIC"

    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheels", *define, sources)
    (wheel,) = (tmp_path / "wheels").iterdir()
    assert wheel.name.startswith("caan_native-")
    # Python 3.12 and newer share one wheel.
    assert f"-cp3{min(sys.version_info.minor, 12)}-" in wheel.name
    run(*pip, "install", wheel)
    shutil.rmtree(sources)
    scores, file = run(python, "-I", "-c", USE).strip().rsplit(" ", 1)
    assert scores == "[[6.0], [6.0]]"
    assert Path(file).is_relative_to(tmp_path / "fresh")
