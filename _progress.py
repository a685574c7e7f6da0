"""Progress bars."""

from __future__ import annotations

from typing import NoReturn

from tqdm import tqdm


def progress_bar(total: int, name: str, unit: str, shown: bool) -> tqdm[NoReturn]:
    """A bar on standard error, and none where that is no terminal."""
    return tqdm(total=total, desc=name, unit=unit, unit_scale=True, disable=None if shown else True)
