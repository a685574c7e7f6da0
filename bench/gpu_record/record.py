"""The record's files: JSON, a page, the steps' output. JSON and page are replaced atomically."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ... import __version__
from ..._files import atomic_file
from .page import page_of, status_text
from .plan import Step
from .run_step import FAILED, TIMED_OUT

FORMAT = "caan-gpu-record"
_MOST_LOG = 1 << 20  # bytes kept of one step's output, from its end


class Record:
    """The results so far. base: the files' path without suffix."""

    def __init__(self, base: Path, steps: Sequence[Step], rehearsal: bool) -> None:
        self.json_file, self.page_file, self.log_file = (
            base.with_name(f"{base.name}.{e}") for e in ("json", "md", "log")
        )
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "caan": __version__,
            "commit": _commit(),
            "rehearsal": rehearsal,
            "started": _now(),
            "finished": None,
            "steps": {
                step.name: {"title": step.title, "status": "waiting", "reason": "", "rows": {}} for step in steps
            },
        }
        self.log_file.write_bytes(b"")
        self._save()

    def update(self, step: Step, result: dict[str, Any], seconds: float) -> None:
        """result: as run_step.py writes it; {} before its first row."""
        entry = self._content["steps"][step.name]
        new = {
            "status": result.get("status") or "running",
            "reason": result.get("reason", ""),
            "rows": result.get("rows", {}),
        }
        if any(entry[name] != value for name, value in new.items()):
            entry |= new | {"seconds": round(seconds, 1)}
            self._save()

    def append_log(self, step: Step, file: Path) -> None:
        """Add a step's output."""
        with self.log_file.open("ab") as log:
            log.write(f"==== {step.name}\n".encode() + file.read_bytes()[-_MOST_LOG:] + b"\n")

    def finish(self) -> None:
        self._content["finished"] = _now()
        self._save()

    def line(self, step: Step) -> str:
        """A step's status in one line."""
        return status_text(self._content["steps"][step.name])

    def has_failed(self) -> bool:
        return any(entry["status"] in (FAILED, TIMED_OUT) for entry in self._content["steps"].values())

    def _save(self) -> None:
        for file, text in (
            (self.json_file, json.dumps(self._content, indent=1, ensure_ascii=False) + "\n"),
            (self.page_file, page_of(self._content, self.json_file.name, self.log_file.name)),
        ):
            with atomic_file(file) as temporary:
                temporary.write_text(text, encoding="utf-8")


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file that is replaced atomically; {} if it does not exist yet."""
    with suppress(OSError):
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content
    return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    """Of this checkout; None in a copy without git."""
    with suppress(OSError, subprocess.SubprocessError):
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).resolve().parent, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
        return described.stdout.strip()
    return None
