"""Signals and standard streams of a command: signals end it like Ctrl-C, and lost output is an error.

Standard library only.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

from ..errors import OutputError

# A closed terminal, and a request to terminate. Ctrl-C already has a handler.
_ENDING = ("SIGTERM", "SIGHUP")


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP act like Ctrl-C, and the process exits with 128 + signal number.

    An ignored signal, as SIGHUP under nohup, stays ignored.
    """
    received: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        if received:  # shell and terminal may both send one; don't interrupt the cleanup
            return
        received.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in _ENDING if hasattr(signal, name)):
            if signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            sys.exit(128 + received[0])


@contextmanager
def usable_streams() -> Iterator[None]:
    """Make the standard streams usable: reserve the numbers of closed ones, and report lost output.

    Raises OutputError if standard output is closed or can't be written. Failures of standard error are ignored.
    """
    if sys.stdout is None:
        _fill(0, 1, 2)
        sys.stderr = sys.stderr or _nowhere()
        raise OutputError("standard output is closed; redirect it to a file, or to /dev/null")
    _fill(0, 2)
    if sys.stderr is None:
        sys.stderr = _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # the terminal's encoding may lack characters of an id, or arrows
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    except SystemExit as stop:
        if not stop.code and not _flushed(sys.stdout):
            raise OutputError("can't write standard output; the result was not printed") from stop
        raise
    except OSError as error:
        if _is_from_printing(error):
            raise OutputError(f"can't write standard output: {error.strerror}; the result was not printed") from error
        raise
    finally:
        for stream in (sys.stdout, sys.stderr):
            if not _flushed(stream):
                _discard(stream)


def _is_from_printing(error: OSError) -> bool:
    """Whether the error was raised while click printed. Such an error names no file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__") == "click.utils"


def _fill(*numbers: int) -> None:
    """Open /dev/null as each closed standard stream, so that no other file gets its number."""
    for number in numbers:
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                opened = os.open(os.devnull, os.O_RDWR)
                if opened != number:
                    os.dup2(opened, number)
                    os.close(opened)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123  (open until the process ends)


def _flushed(stream: TextIO | None) -> bool:
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _discard(stream: TextIO) -> None:
    """Discard a stream's buffer, which would raise another error at interpreter exit."""
    with suppress(OSError, ValueError):
        opened = os.open(os.devnull, os.O_WRONLY)
        os.dup2(opened, stream.fileno())
        os.close(opened)
