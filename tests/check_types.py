"""mypy over the package: python tests/check_types.py, as `make lint` does.

The root of the repository is the package `caan`, whatever its folder is called. mypy takes a module's name from its
folders, and does not see where an editable install points; here it is given every file with its name.
"""

import sys
from pathlib import Path

from mypy.build import build
from mypy.errors import CompileError
from mypy.main import process_options
from mypy.modulefinder import BuildSource
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    _, options = process_options(["--config-file", str(ROOT / "pyproject.toml"), "-c", ""])
    sources = modules()
    try:
        messages = build(sources, options).errors
    except CompileError as error:  # a file that can't be parsed
        messages = error.messages
    print(*messages, sep="\n", end="\n" if messages else "")
    print(f"{len(messages)} messages of mypy on {len(sources)} modules")
    return int(bool(messages))


def modules() -> list[BuildSource]:
    """Every module of every room, by its name in the package."""
    rooms = find_packages(str(ROOT), exclude=["cpp*", "docs*", "examples*", "tests*"])
    sources = []
    for folder, package in [(ROOT, "caan"), *((ROOT / room.replace(".", "/"), f"caan.{room}") for room in rooms)]:
        for path in sorted(folder.glob("*.py")):
            if path != ROOT / "setup.py":
                name = package if path.stem == "__init__" else f"{package}.{path.stem}"
                sources.append(BuildSource(str(path), name))
    return sources


if __name__ == "__main__":
    sys.exit(main())
