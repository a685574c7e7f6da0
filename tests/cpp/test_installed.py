"""What `cmake --install` leaves is enough for a program elsewhere: through find_package and through pkg-config.

`make test-cpp` has a shared library; `make test-cpp-static` runs the tests of programs with a static one.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from caan.data.scan import open_split
from caan.runtime import Gallery, Retriever
from caan.runtime.index import delete_items
from tests.attacks.untrusted.test_foreign_galleries import NAMES, gallery, retriever  # noqa: F401
from tests.cpp.conftest import CPP, plain_environment, run_plainly

CONSUMER = Path(__file__).parent / "consumer"


@pytest.fixture
def searched(demo_bundle, demo_run, tmp_path):
    """searched(program): what it prints for the demo's first caption is what Python finds, rank by rank."""
    data = open_split(demo_run.data)
    features, caption = np.asarray(data.features), data.captions[0]
    np.save(tmp_path / "features.npy", features)

    def check(program):
        lines = run_plainly(program, demo_bundle, tmp_path / "features.npy", caption).splitlines()
        printed = [re.fullmatch(r" *(\d+) +(-?\d+\.\d{4}) +(\d+)", line).groups() for line in lines]
        python = Retriever.open(demo_bundle, "onnxruntime")
        hits = python.search(caption, python.encode_images(features), k=10)
        assert [int(rank) for rank, _, _ in printed] == list(range(1, 11))
        assert (
            np.abs([float(score) - hit.score for (_, score, _), hit in zip(printed, hits, strict=True)]).max() <= 1e-4
        )
        assert [int(index) for _, _, index in printed] == [hit.index for hit in hits]

    return check


def test_a_short_program_built_with_find_package_searches_the_demo(installed, searched, tmp_path):
    source = shutil.copytree(CONSUMER, tmp_path / "consumer")
    assert len((source / "search.cpp").read_text().splitlines()) <= 20
    run_plainly("cmake", "-S", source, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    run_plainly("cmake", "--build", tmp_path / "build")
    searched(tmp_path / "build" / "search")


def test_another_version_is_not_found(installed, tmp_path):
    source = shutil.copytree(CONSUMER, tmp_path / "consumer")
    lists = (source / "CMakeLists.txt").read_text()
    (source / "CMakeLists.txt").write_text(lists.replace("find_package(caan ", "find_package(caan 99.0 "))
    command = ["cmake", "-S", source, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment())
    assert done.returncode != 0 and "caan" in done.stderr


def test_a_c99_program_built_with_pkg_config_searches_the_demo(installed, searched, tmp_path):
    folder = next(installed.rglob("caan.pc")).parent
    options = {**plain_environment(), "PKG_CONFIG_PATH": str(folder)}
    command = ["pkg-config", "--cflags", "--libs", "--define-prefix", "caan"]
    flags = subprocess.run(command, capture_output=True, text=True, env=options, check=True).stdout.split()
    program = tmp_path / "search-c"
    c99 = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    run_plainly("cc", *c99, CPP / "examples" / "search.c", "-o", program, *flags, f"-Wl,-rpath,{folder.parent}")
    searched(program)


def test_the_installed_command_searches_the_demo(installed, searched):
    searched(installed / "bin" / "caan-search-cpp")


def test_the_installed_command_says_what_is_wrong(installed, tmp_path):
    command = [installed / "bin" / "caan-search-cpp", tmp_path, "x.npy", "a dog"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment())
    assert (done.returncode, done.stdout) == (2, "")
    says = "is not a bundle: it has no manifest.json; make one with: caan-export model.pt"
    assert done.stderr == f"Error: {tmp_path} {says}\n"


def test_only_the_interface_is_visible(installed):
    """No internal name can clash with an application's, nor one of JSON or OpenSSL."""
    library = next(path for path in installed.rglob("libcaan.so.*") if not path.is_symlink())
    names = [line.split(maxsplit=2)[-1] for line in run_plainly("nm", "-DC", "--defined-only", library).splitlines()]
    own = re.compile(r"(vtable for |typeinfo for |typeinfo name for )?caan(::(?!detail)|_)")
    assert [name for name in names if not own.match(name)] == []
    assert {"caan_open", "caan_last_error"} <= set(names)


def test_the_library_says_its_version(installed, caan_c, library):
    (version,) = re.findall(r'^version = "(.*)"', (CPP.parent / "pyproject.toml").read_text(), re.MULTILINE)
    assert library.caan_version().decode() == version
    path = next(path for path in installed.rglob("libcaan.so.*") if not path.is_symlink())
    assert path.name == f"libcaan.so.{version}"
    minor = version.rsplit(".", 1)[0]
    assert f"[libcaan.so.{minor}]" in run_plainly("readelf", "-d", path)
    assert os.path.samefile(path.parent / f"libcaan.so.{minor}", path)  # noqa: PTH121


def test_the_installed_command_searches_a_gallery(installed, retriever, gallery, tiny_bundle):  # noqa: F811
    command = [installed / "bin" / "caan-search-cpp", tiny_bundle, gallery, "w1 w2"]
    hits = retriever.search("w1 w2", Gallery.open(gallery))
    expected = [f"{rank:3}  {hit.score:8.4f}  {hit.index}  {NAMES[hit.index]}" for rank, hit in enumerate(hits, 1)]
    assert run_plainly(*command).splitlines() == expected
    delete_items(gallery, ["a"])
    assert len(run_plainly(*command).splitlines()) == len(NAMES) - 1


@pytest.fixture(scope="module")
def short_program(installed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    run_plainly("cmake", "-S", CONSUMER, "-B", folder, f"-DCMAKE_PREFIX_PATH={installed}")
    run_plainly("cmake", "--build", folder)
    return folder / "search"


@pytest.mark.parametrize("given", [0, 1, 2])
def test_the_short_program_says_what_it_needs(short_program, tiny_bundle, given):
    arguments = [tiny_bundle, "features.npy", "w1"][:given]
    done = subprocess.run([short_program, *arguments], capture_output=True, text=True, env=plain_environment())
    assert (done.returncode, done.stderr) == (2, "Error: give BUNDLE FEATURES.npy CAPTION\n")


def test_the_short_program_prints_what_there_is_of_a_few_images(short_program, tiny_bundle, tmp_path):
    np.save(tmp_path / "features.npy", np.random.default_rng(0).standard_normal((3, 5, 12)).astype(np.float32))
    assert len(run_plainly(short_program, tiny_bundle, tmp_path / "features.npy", "w1").splitlines()) == 3


def test_the_short_program_is_the_readme_s():
    assert (CONSUMER / "search.cpp").read_text() in (CPP.parent / "docs" / "cpp.md").read_text()


def test_a_configuration_without_the_sdk_says_where_to_get_it(unavailable, tmp_path):
    said = configure(unavailable, CPP, tmp_path, "-DONNXRUNTIME_ROOT=/nowhere", *FINDS_NOTHING)
    for text in ("github.com/microsoft/onnxruntime/releases", "cpp/tools/get_onnxruntime.sh", "-DONNXRUNTIME_ROOT=DIR"):
        assert text in said


def test_caan_native_without_a_compiler_says_so_in_one_line(unavailable, tmp_path):
    said = configure(unavailable, CPP / "python", tmp_path, CXX="/nowhere/c++")
    assert "  caan-native needs a C++ compiler: sudo apt-get install g++ (or name one: CXX=...)\n" in said


FINDS_NOTHING = ["-DCMAKE_FIND_ROOT_PATH=/nowhere"]
FINDS_NOTHING += [f"-DCMAKE_FIND_ROOT_PATH_MODE_{what}=ONLY" for what in ("INCLUDE", "LIBRARY", "PACKAGE")]


def configure(unavailable, source, folder, *options, **environment):
    """CMake's output; it must fail."""
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        unavailable("needs CMake and Ninja; make test-cpp installs both")
    command = ["cmake", "-G", "Ninja", "-S", source, "-B", folder, *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**plain_environment(), **environment})
    assert done.returncode != 0
    return done.stderr
