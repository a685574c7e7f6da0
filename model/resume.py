"""Interrupting and resuming a training: its state file beside the checkpoint, and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .checkpoint import read_archive, write_archive

_FORMAT, _VERSION = "caan-training", 1


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state, plain types and tensors, atomically. Raises OutputError if the file can't be written."""
    write_archive(path, {"format": _FORMAT, "version": _VERSION, **state})


def load_state(path: Path, run: dict[str, Any], command: str) -> dict[str, Any]:
    """Read the state that `save_state` wrote.

    `run` identifies the training: the file must hold the same items. `command` starts the training. Raises
    CheckpointError for a file that is missing, damaged, of another version, or of another run.
    """
    if not path.is_file():
        raise CheckpointError(f"no interrupted training at {path}; start one with: {command}")
    try:
        state = read_archive(path)
    except CheckpointError as error:
        raise _unusable(path, "is damaged or not a training state", command) from error
    if state.get("format") != _FORMAT:
        raise _unusable(path, "is damaged or not a training state", command)
    if state.get("version") != _VERSION:
        raise _unusable(path, f"has format version {state.get('version')}, this caan reads {_VERSION}", command)
    for name, value in run.items():
        if state.get(name) != value:
            raise _unusable(path, f"is of another training: its {name} was {state.get(name)}, now {value}", command)
    return state


class Interrupt:
    """The first Ctrl-C requests a stop between two steps; the second interrupts at once."""

    requested = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous)

    def _note(self, signum: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def _unusable(path: Path, why: str, command: str) -> CheckpointError:
    return CheckpointError(f"{path} {why};\nstart again with: {command} --restart")
