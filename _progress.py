"""Progress bars, shown only on terminals.

tqdm is loaded only for a visible bar: it holds a system semaphore in each process that uses it.
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from tqdm import tqdm


class NoBar:
    """An invisible bar, which only counts."""

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
    """A bar on standard error, with tqdm's options; a NoBar if not `shown`, or without a terminal."""
    if not shown or not _is_terminal():
        return NoBar()
    try:
        from tqdm import tqdm
    except ImportError:  # a foreign environment, as in `make gpu-record`
        return NoBar()
    return tqdm(total=total, desc=name, unit=unit, **{"unit_scale": True, **options})


def write_line(line: str) -> None:
    """Print a line on standard error, above a visible bar."""
    if _is_terminal():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
    elif sys.stderr is not None:
        print(line, file=sys.stderr)


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()
