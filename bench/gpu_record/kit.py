"""Using what `make gpu-kit` gathered: wheels, whole or in pieces, unpacked onto the path of modules."""

from __future__ import annotations

import re
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from ..._files import atomic_file, sha256_of
from ...errors import InputError, MissingError
from .plan import Asked

WHEELS, SUMS = "wheels", "SHA256SUMS"
# What the project imports everywhere and such a machine may lack; each wheel holds the module of its name.
PURE = ("click", "platformdirs", "tabulate", "tqdm")
# The same, but wheels that are compiled for one version of Python, and a pure one whose module has another name.
COMPILED = ("msgspec", "psutil")
MODULES = {"nvidia-ml-py": "pynvml"}
PIECE = re.compile(r"(?P<wheel>.+\.whl)\.(?P<number>\d\d)of(?P<count>\d\d)")


def unpack_missing(kit: Path, target: Path) -> None:
    """Put the kit's small wheels into `target`, which is on PYTHONPATH; but for those that this Python has."""
    for name in (*PURE, *COMPILED, *MODULES):
        if find_spec(MODULES.get(name, name)) is None:
            for wheel in kit.glob(f"{WHEELS}/{name.replace('-', '_')}-*.whl"):
                _unpack(wheel, target)


def use_wheels(asked: Asked, name: str) -> list[str]:
    """Unpack the kit's wheels that begin with `name` and put them first on the path of modules; their file names.

    Call it before what they hold is imported. Raises MissingError if there is none or a piece is lacking, InputError
    for pieces that don't make the wheel they are of.
    """
    folder = asked.kit / WHEELS
    wheels = {path.name: [path] for path in sorted(folder.glob(f"{name}*.whl"))}
    for path in sorted(folder.glob(f"{name}*.whl.*")):
        if match := PIECE.fullmatch(path.name):
            wheels.setdefault(match["wheel"], []).append(path)
    if not wheels:
        raise MissingError(f"no wheel {name}* lies in {folder}; make gpu-kit says what did not fit its size")
    target = asked.scratch / name
    for wheel, pieces in wheels.items():
        _unpack(_joined(wheel, pieces, asked.scratch), target)
    sys.path.insert(0, str(target))
    return list(wheels)


def _joined(wheel: str, pieces: list[Path], scratch: Path) -> Path:
    """The wheel of these pieces, checked by its hash."""
    match = PIECE.fullmatch(pieces[0].name)
    if match is None:
        return pieces[0]
    if len(pieces) != int(match["count"]):
        raise MissingError(f"{len(pieces)} of {wheel}'s {int(match['count'])} pieces lie in {pieces[0].parent}")
    whole = scratch / wheel
    with atomic_file(whole) as temporary, temporary.open("wb") as file:
        for piece in pieces:
            file.write(piece.read_bytes())
    if f"{sha256_of(whole)}  {wheel}" not in pieces[0].with_name(SUMS).read_text().splitlines():
        whole.unlink()
        raise InputError(f"the pieces of {wheel} in {pieces[0].parent} are not what {SUMS} says; copy them again")
    return whole


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
