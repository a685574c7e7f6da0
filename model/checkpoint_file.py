"""Checks of a checkpoint's file without PyTorch, whose import takes seconds."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError


def check_is_file(path: Path) -> None:
    """Raise CheckpointError if the file is missing."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint; name the model.pt that your training wrote")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; name the model.pt that your training wrote")
