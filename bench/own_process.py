"""Start the bench's processes so that they import only installed packages, nothing from the current folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def away_from_here() -> Iterator[None]:
    """Start a process with multiprocessing inside this: neither it nor its helpers import from the current folder.

    By default they look there first: they run with `python -c` and inherit this process's sys.path.
    """
    path, safe = sys.path, os.environ.get("PYTHONSAFEPATH")
    sys.path = [entry for number, entry in enumerate(path) if not _is_here(number, entry)]
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        sys.path = path
        if safe is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = safe


def _is_here(number: int, entry: str) -> bool:
    """Whether an entry of sys.path is the current folder, put there by Python; a script's own folder may be needed."""
    if entry == "":
        return True
    main = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    is_ours = main is not None and main.name.partition(".")[0] == __name__.partition(".")[0]
    return is_ours and number == 0 and not sys.flags.safe_path and Path(entry) == Path.cwd()
