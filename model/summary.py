"""What a checkpoint is and says of itself, for `caan inspect`, with or without its vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import convert_command
from .checkpoint import FORMAT, ScanOptions, check_config, check_is_scan, load_checkpoint, read_archive
from .parameters import build_model
from .scan_checkpoint import read_scan
from .settings import Setting


@dataclass(frozen=True)
class CheckpointSummary:
    """A checkpoint's family, config, settings with their origin, and its own quality figures."""

    file: Path
    family: str
    config: dict[str, Any]
    settings: list[Setting]
    metrics: dict[str, Any]
    content_sha256: str | None  # as `Checkpoint.digest`; None without a vocabulary

    def as_dict(self) -> dict[str, Any]:
        settings = [setting.as_dict() for setting in self.settings]
        return {**vars(self), "file": str(self.file), "settings": settings}


def summary_of(path: Path, options: ScanOptions) -> CheckpointSummary:
    """Read a checkpoint whole and summarize it. Raises as `load_checkpoint`, but a vocabulary may be missing."""
    content = read_archive(path)
    is_own = content.get("format") == FORMAT
    if is_own or options.vocabulary is not None:
        loaded = load_checkpoint(path, options)
        family = f"{FORMAT}, version {content.get('version')}" if is_own else "SCAN-family"
        config = loaded.model.config.as_dict()
        return CheckpointSummary(path, family, config, list(loaded.settings), loaded.metrics, loaded.digest())
    check_is_scan(path, content)
    read = read_scan(path, content, options.key_map, options.attention_scale)
    check_config(path, read.config)
    build_model(path, read.config, read.state)
    rows = f"none for the embedding's {read.config.vocab_size:,} rows"
    vocabulary = Setting("vocabulary", rows, "file", f"add it once: {convert_command(path)}")
    metrics = {} if read.best_rsum is None else {"best_rsum": read.best_rsum}
    settings = [*read.settings, vocabulary]
    return CheckpointSummary(path, "SCAN-family", read.config.as_dict(), settings, metrics, None)
