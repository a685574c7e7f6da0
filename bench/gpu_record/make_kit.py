"""Collect what a GPU machine without a network lacks, in a folder of limited size: `make gpu-kit`.

In order of priority: small wheels, the project, a trained model with FP16 graphs, a data set for the gate, the model's
checkpoint, TensorRT for RTX with plans, ONNX Runtime's CUDA provider. KIT.txt lists what is included and what did not
fit.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
from tabulate import tabulate

from ..._cache import cache_folder
from ..._files import sha256_of, temporary_folder
from ...accuracy.reference_scores import reference_scores
from ...accuracy.workload import Workload, data_workload, spread
from ...bundle import open_bundle
from ...errors import CaanError, InputError
from .kit import COMPILED, MODULES, PURE, SUMS, WHEELS
from .kit_model import BUNDLE, DATA, REFERENCE

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = "KIT.txt"
_MIB = 1 << 20
_PIECE = 29 * _MIB
_MARGIN = 64 << 10  # for KIT.txt, hashes, file headers
_FEWEST_IMAGES = 50  # R@K of fewer images means nothing
_PYTHON = "3.12"
_PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
_HOW = """What a machine with an NVIDIA GPU and no network lacks (make gpu-kit). There:

    tar xzf gpu-kit/project.tar.gz -C caan-deploy    # or copy the checkout
    mv gpu-kit caan-deploy && cd caan-deploy && make gpu-record
"""


@dataclass
class _Item:
    what: str
    size: int | None  # bytes; None if it could not be made
    note: str
    fits: bool


class Kit:
    """A folder with a size limit."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.items = folder, list[_Item]()
        self.room = most

    def add(self, what: str, parts: Callable[[Path], str], where: str = ".", at_least: int = 0) -> bool:
        """`parts(scratch)` makes files there and returns a note; they are added to `where` in the kit if they fit.

        at_least: a lower bound of its bytes. If it raises, the error is listed as the reason for leaving it out.
        """
        with temporary_folder("kit") as scratch:
            try:
                if at_least > self.room:
                    raise InputError(f"more than the {self.room / _MIB:.0f} MiB left; raise KIT_MB")
                note = parts(scratch)
                size = _size(scratch)
                fits = size <= self.room
                if not fits:
                    note = f"only {self.room / _MIB:.0f} MiB left; raise KIT_MB"
            except PackageNotFoundError as error:
                size, fits, note = None, False, f"{error.name} is not installed here"
            except (CaanError, OSError, subprocess.SubprocessError) as error:
                size, fits, note = None, False, str(error)
            if fits:
                self.room -= size or 0
                shutil.copytree(scratch, self.folder / where, dirs_exist_ok=True)
        self.items.append(_Item(what, size, note, fits))
        return fits

    def table(self) -> str:
        rows = [
            ["yes" if item.fits else "NO", item.what, "" if item.size is None else f"{item.size / _MIB:.1f}", item.note]
            for item in self.items
        ]
        return tabulate(rows, ["in the kit", "what", "MiB", ""], maxcolwidths=[None, None, None, 70])


def make_kit(folder: Path, megabytes: int, data: Path | None, bundle: Path | None = None, python: str = _PYTHON) -> Kit:
    """Fill `folder`, replacing an earlier kit.

    data: a data set in SCAN's format with its `model.pt`; None: the demo's; bundle: an export of that model.pt, to save
    exporting it again; python: the version on the GPU machine.
    Raises OutputError for a folder that can't be written, InputError for one with other content.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONTENTS).is_file():
        raise InputError(f"{folder} is not a kit, so it is not replaced; name another: make gpu-kit KIT=DIR")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / CONTENTS).write_text("not finished\n", encoding="utf-8")
    kit = Kit(folder, megabytes * _MIB - _MARGIN)
    for name in (*PURE, *COMPILED, *MODULES):
        version = python if name in COMPILED else None
        kit.add(f"wheel {name}", lambda to, name=name, version=version: _download(name, to, version), WHEELS)  # type: ignore[misc]
    kit.add("the project", _project)
    data = data or _demo()
    if kit.add("model: graphs in FP32 and FP16", lambda to: _bundle(data, bundle, to)):
        kit.add("data for the gate", lambda to: _data(data, folder / BUNDLE, to, kit.room - _MARGIN), DATA)
        kit.add("the model's checkpoint", lambda to: _checkpoint(data, to), DATA)
        fits = kit.add("wheels of TensorRT for RTX", lambda to: _rtx(to, python), WHEELS, at_least=80 * _MIB)
        if fits:
            kit.add("plans of TensorRT for RTX, FP16", lambda to: _plans(folder / BUNDLE, to), BUNDLE)
        else:
            kit.items.append(_Item("plans of TensorRT for RTX, FP16", None, "useless without its wheels", False))
    kit.add("wheel onnxruntime-gpu", lambda to: _download("onnxruntime-gpu", to, python), WHEELS, at_least=150 * _MIB)
    (folder / CONTENTS).write_text(f"{_HOW}\n{kit.table()}\n", encoding="utf-8")
    return kit


def _project(to: Path) -> str:
    """The files tracked by git, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tarfile.open(to / "project.tar.gz", "w:gz") as archive:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                archive.add(ROOT / name, name)
    return "all of the project that make gpu-record needs"


def _demo() -> Path:
    """The demo's world with a CAAN trained on it, made once and cached."""
    from ...data.demo.world import write_world
    from ...model.train import train

    folder = cache_folder("gpu-kit-demo")
    if not (folder / "model.pt").is_file():
        write_world(folder)
        train(folder, folder / "model.pt", restart=True)
    return folder


def _bundle(data: Path, bundle: Path | None, to: Path) -> str:
    from ...export.bundle_from_checkpoint import export_checkpoint
    from ...export.precision import add_ungated
    from ...model.checkpoint import load_checkpoint

    checkpoint = data / "model.pt"
    if bundle is not None:
        shutil.copytree(bundle, to / BUNDLE)
    else:
        export_checkpoint(load_checkpoint(checkpoint), checkpoint, to / BUNDLE)
    if "fp16" not in open_bundle(to / BUNDLE).precisions:
        add_ungated(to / BUNDLE, "fp16")
    return f"trained on {data.resolve().name}"


def _checkpoint(data: Path, to: Path) -> str:
    shutil.copy(data / "model.pt", to)
    return "for caan-bench"


def _data(data: Path, bundle: Path, to: Path, room: int) -> str:
    """As many images as fit, their captions, and PyTorch's scores of all pairs."""
    workload = data_workload(data, "test")
    images, captions = len(workload.features), len(workload.captions)
    fit = next((n for n in range(images, 0, -1) if _bytes_of(workload, n) <= room), 0)
    if fit < min(images, _FEWEST_IMAGES):
        raise InputError(f"only {fit} images fit, and R@K needs at least {_FEWEST_IMAGES}; raise KIT_MB")
    part = workload.subset(spread(np.arange(images), fit))
    np.save(to / "test_ims.npy", part.features.astype(np.float16))
    if part.lengths is not None:
        np.save(to / "test_lengths.npy", part.lengths)
    (to / "test_caps.txt").write_text("".join(f"{caption}\n" for caption in part.captions), encoding="utf-8")
    scores, _ = reference_scores(part, open_bundle(bundle), data / "model.pt")
    np.save(to / REFERENCE, scores)
    return f"{fit} of {images} images, {len(part.captions)} of {captions} captions, evenly spread; PyTorch's scores"


def _bytes_of(workload: Workload, images: int) -> int:
    """Bytes that the images and their captions, of 100 bytes each, take in the kit."""
    per_image: int = workload.features[0].size * 2
    captions = images * len(workload.captions) // len(workload.features)
    return images * per_image + captions * (100 + 4 * images)


def _plans(bundle: Path, to: Path) -> str:
    """Plans for compute capability 8.0 and newer: the files they add or change in the bundle."""
    from ...export.engine_from_bundle import EngineJob, build_engine
    from ...export.plan_from_graph import BuildOptions
    from ...export.profiles import Statistics, default_profiles
    from ...export.targets import open_target

    with temporary_folder("plans") as scratch:
        copy = Path(shutil.copytree(bundle, scratch / BUNDLE))
        opened = open_bundle(copy)
        profiles = default_profiles(opened.config, opened.manifest["limits"], Statistics.assumed(opened.config))
        target = open_target("tensorrt-rtx")
        build_engine(copy, EngineJob("fp16", target, profiles, BuildOptions()))
        for name in ("engines", "manifest.json"):
            (shutil.copytree if (copy / name).is_dir() else shutil.copy)(copy / name, to / name)
    return f"{target}, for GPUs of {', '.join(target.capabilities)}"


def _rtx(to: Path, python: str) -> str:
    """Two wheels, and the package over them, which is distributed as a small source package."""
    version = installed_version("tensorrt-rtx-cu13")  # plans load only in the version that built them
    for part in ("-bindings", "-libs"):
        _download(f"tensorrt-rtx-cu13{part}=={version}", to, python)
    _pip("wheel", "--no-deps", "--wheel-dir", str(to), f"tensorrt-rtx-cu13=={version}")
    return version


def _download(package: str, to: Path, python: str | None) -> str:
    """A package's wheel, without dependencies; python: its version, on Linux x86-64; None: a pure wheel."""
    platform = [argument for name in _PLATFORMS for argument in ("--platform", name)]
    target = [*platform, "--python-version", python] if python else []
    _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(to), *target, package)
    wheel = max(to.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    if wheel.stat().st_size > _PIECE:
        _cut(wheel)
    return wheel.name


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *arguments, "--quiet"], capture_output=True, text=True)
    if done.returncode:
        errors = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise CaanError(f"pip could not get it: {(errors or done.stderr.splitlines() or ['no message'])[-1][:200]}")


def _cut(wheel: Path) -> None:
    """Split a wheel into pieces that gpu-record joins; SHA256SUMS holds the wheel's hash."""
    count = -(-wheel.stat().st_size // _PIECE)
    with wheel.open("rb") as file:
        for number in range(1, count + 1):
            wheel.with_name(f"{wheel.name}.{number:02}of{count:02}").write_bytes(file.read(_PIECE))
    with (wheel.parent / SUMS).open("a", encoding="utf-8") as sums:
        sums.write(f"{sha256_of(wheel)}  {wheel.name}\n")
    wheel.unlink()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser("make gpu-kit", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=int, default=60, metavar="MIB", help="size of the whole kit")
    parser.add_argument("--data", type=Path, metavar="DIR", help="in SCAN's format, with its model.pt; else the demo's")
    parser.add_argument(
        "--bundle", type=Path, metavar="DIR", help="an export of that model.pt; else it is exported now"
    )
    parser.add_argument("--python", default=_PYTHON, metavar="X.Y", help="the GPU machine's version")
    options = parser.parse_args()
    try:
        kit = make_kit(options.folder, options.megabytes, options.data, options.bundle, options.python)
    except CaanError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{kit.table()}\n\n{options.folder}: {_size(options.folder) / _MIB:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
