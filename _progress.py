"""Progress bars: on a terminal, and nothing at all elsewhere.

tqdm is loaded only for a bar that is shown: each process that makes one holds a semaphore of the system's for it.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from tqdm import tqdm


class NoBar:
    """A bar that is not shown. It still counts."""

    n: float = 0

    def update(self, steps: float = 1) -> None:
        self.n += steps

    def set_postfix(self, *_: Any, **__: Any) -> None: ...

    def set_postfix_str(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


if TYPE_CHECKING:
    Bar = tqdm[NoReturn] | NoBar


def progress_bar(total: float, name: str, unit: str, shown: bool, **options: Any) -> Bar:
    """A bar on standard error, with tqdm's options; a NoBar if it is not to be shown, or that is not a terminal."""
    if not shown or not _is_terminal():
        return NoBar()
    try:
        from tqdm import tqdm
    except ImportError:  # a machine that was set up for something else, as `make gpu-record` meets it
        return NoBar()
    return tqdm(total=total, desc=name, unit=unit, **{"unit_scale": True, **options})


def write_line(line: str) -> None:
    """A line on standard error, above the bar that may be shown there."""
    if _is_terminal():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    elif sys.stderr is not None:
        print(line, file=sys.stderr)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
