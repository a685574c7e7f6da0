"""Use the wheels of `make gpu-kit`, whole or in pieces: unpack them onto the module path."""

from __future__ import annotations

import re
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from ..._files import atomic_file, sha256_of
from ...errors import InputError, MissingError
from .plan import StepSettings

WHEELS, SUMS = "wheels", "SHA256SUMS"
# Packages imported everywhere that such a machine may lack; each wheel holds the module of its name.
PURE = ("click", "platformdirs", "tabulate", "tqdm")
# The same: wheels compiled for one version of Python, and pure ones whose module has another name.
COMPILED = ("msgspec", "psutil")
MODULES = {"nvidia-ml-py": "pynvml"}
PIECE = re.compile(r"(?P<wheel>.+\.whl)\.(?P<number>\d\d)of(?P<count>\d\d)")


def unpack_missing(kit: Path, target: Path) -> None:
    """Unpack the kit's small wheels into `target`, which is on PYTHONPATH, except those already installed."""
    for name in (*PURE, *COMPILED, *MODULES):
        if find_spec(MODULES.get(name, name)) is None:
            for wheel in kit.glob(f"{WHEELS}/{name.replace('-', '_')}-*.whl"):
                _unpack(wheel, target)


def use_wheels(settings: StepSettings, name: str) -> list[str]:
    """Unpack the kit's wheels whose names start with `name` and put them first on the module path; their file names.

    Call it before importing their modules. Raises MissingError if there is none or a piece is missing, InputError if
    the joined pieces don't match the wheel's hash.
    """
    folder = settings.kit / WHEELS
    wheels = {path.name: [path] for path in sorted(folder.glob(f"{name}*.whl"))}
    for path in sorted(folder.glob(f"{name}*.whl.*")):
        if match := PIECE.fullmatch(path.name):
            wheels.setdefault(match["wheel"], []).append(path)
    if not wheels:
        raise MissingError(f"there is no wheel {name}* in {folder}; make gpu-kit lists what did not fit")
    target = settings.scratch / name
    for wheel, pieces in wheels.items():
        _unpack(_joined(wheel, pieces, settings.scratch), target)
    sys.path.insert(0, str(target))
    return list(wheels)


def _joined(wheel: str, pieces: list[Path], scratch: Path) -> Path:
    """The wheel joined from these pieces, verified by its hash."""
    match = PIECE.fullmatch(pieces[0].name)
    if match is None:
        return pieces[0]
    if len(pieces) != int(match["count"]):
        raise MissingError(f"only {len(pieces)} of {wheel}'s {int(match['count'])} pieces are in {pieces[0].parent}")
    whole = scratch / wheel
    with atomic_file(whole) as temporary, temporary.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    if f"{sha256_of(whole)}  {wheel}" not in pieces[0].with_name(SUMS).read_text().splitlines():
        whole.unlink()
        raise InputError(f"the pieces of {wheel} in {pieces[0].parent} do not match {SUMS}; copy them again")
    return whole


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
