"""Progress bars."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import Any

_bar: Any = None
# A machine that was set up for something else, as `make gpu-record` meets it, may lack it.
with suppress(ImportError):
    from tqdm import tqdm

    _bar = tqdm


def progress_bar(total: int, name: str, unit: str, shown: bool) -> Any:
    """A bar on standard error, and none where that is no terminal."""
    if _bar is None:
        return nullcontext(_NoBar())
    return _bar(total=total, desc=name, unit=unit, unit_scale=True, disable=None if shown else True)


class _NoBar:
    def update(self, n: float = 1) -> None: ...
