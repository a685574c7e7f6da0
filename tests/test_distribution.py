"""What is published: the wheel holds the rooms and nothing else, and works in a fresh environment elsewhere.

`make dist` tests its own files, by CAAN_DIST; otherwise the wheel is built here, from a copy of the checkout.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
NO_ROOMS = ("cpp", "docs", "examples", "tests", "setup.py")
ENDINGS = (".py", ".jinja", "py.typed")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The files that git would commit, in a folder of another name."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs git, which tells what belongs to the project")
    folder = tmp_path_factory.mktemp("copy") / "another-name"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder of the distributions, if make dist made them."""
    return (ROOT / os.environ["CAAN_DIST"]).resolve() if os.environ.get("CAAN_DIST") else None


@pytest.fixture(scope="module")
def wheel(checkout, dist, tmp_path_factory):
    if dist is None:
        dist = tmp_path_factory.mktemp("dist")
        run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, checkout)
    (found,) = dist.glob("caan_deploy-*.whl")
    return found


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def files_of_the_rooms(checkout):
    """Every file of the rooms, and those of the root that are modules."""
    names = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    rooms = {top for name in names if f"{(top := name.partition('/')[0])}/__init__.py" in names} - {*NO_ROOMS}
    return {
        name
        for name in names
        if name.partition("/")[0] in rooms or ("/" not in name and name.endswith(ENDINGS) and name not in NO_ROOMS)
    }


def test_the_wheel_holds_exactly_the_rooms(wheel, checkout):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name.removeprefix("caan/") for name in names if name.startswith("caan/")}
    assert inside == files_of_the_rooms(checkout)
    assert {"py.typed", "report/bench.html.jinja", "runtime/retriever.py"} <= inside
    assert {name.partition("/")[0] for name in names} == {"caan", "caan_deploy-0.1.0.dist-info"}


def test_a_new_room_is_found_and_a_folder_of_tests_is_not(checkout, tmp_path):
    copy = shutil.copytree(checkout, tmp_path / "copy")
    for folder in ("new/inner", "tests/new", "cpp/new", "docs/new"):
        (copy / folder).mkdir(parents=True)
        for package in (copy / folder, (copy / folder).parent):
            (package / "__init__.py").touch()
    code = "import setuptools; setuptools.setup = lambda packages, **_: print(*packages)\nexec(open('setup.py').read())"
    packages = set(run(sys.executable, "-c", code, cwd=copy).split())
    assert {"caan", "caan.new", "caan.new.inner", "caan.runtime"} <= packages
    assert {package.split(".")[1] for package in packages if "." in package} & {*NO_ROOMS} == set()


@pytest.mark.slow
def test_the_installed_wheel_exports_and_searches(wheel, tiny_folder, tmp_path):
    """In an environment of its own, which borrows the packages of this one."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "fresh")
    programs = tmp_path / "fresh" / "bin"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", programs / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel)
    (site,) = (tmp_path / "fresh").glob("lib/python*/site-packages")
    borrowed = [
        path for path in sys.path if Path(path).name == "site-packages" or path == sysconfig.get_path("purelib")
    ]
    (site / "borrowed.pth").write_text("".join(f"{path}\n" for path in borrowed))
    shutil.copy(tiny_folder / "model.pt", tmp_path)
    np.save(tmp_path / "features.npy", np.random.default_rng(0).standard_normal((4, 5, 12)).astype(np.float32))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def fresh(program, *arguments):
        return run(programs / program, *arguments, cwd=tmp_path, env=environment)

    where = fresh("python", "-c", "import caan.runtime; print(caan.runtime.__file__)")
    assert Path(where.strip()) == site / "caan" / "runtime" / "__init__.py"
    fresh("caan-export", "model.pt")
    fresh("caan", "index", "model.caan", "features.npy", "-o", "gallery")
    assert len(fresh("caan", "search", "gallery", "w1 w2 w3").splitlines()) >= 4
    assert "--report" in fresh("caan-bench", "--help") and "--fp16" in fresh("caan-build-engine", "--help")


def test_what_make_dist_made(dist, checkout):
    if dist is None:
        pytest.skip("make dist tests the sdists and caan-native's wheels")
    (sdist,) = dist.glob("caan_deploy-*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert files_of_the_rooms(checkout) | {"pyproject.toml", "setup.py", "README.md", "LICENSE"} <= inside
    assert not any(name.startswith(("cpp/", "docs/", "tests/")) for name in inside)
    (sdist,) = dist.glob("caan_native-*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive}
        assert all(member.isfile() or member.isdir() for member in archive)  # no links to what is elsewhere
    kernels = {
        f"kernels/{path.name}" for path in (ROOT / "cpp" / "kernels").iterdir() if path.suffix[1:] in ("cpp", "hpp")
    }
    assert kernels | {"CMakeLists.txt", "LICENSE", "kernels/CMakeLists.txt", "caan_native/__init__.pyi"} <= inside
    wheels = list(dist.glob("caan_native-*.whl"))
    assert wheels, "no Python with headers was found"
    for path in wheels:
        names = zipfile.ZipFile(path).namelist()
        own = {name for name in names if "dist-info" not in name}
        (library,) = (name for name in own if name.endswith(".so"))
        assert ("abi3" in library) == ("-abi3-" in path.name)
        assert own - {library} == {f"caan_native/{name}" for name in ("__init__.py", "__init__.pyi", "py.typed")}
