"""Measurements of an interrupted bench, kept in the user's cache until the same bench is complete."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._cache import cache_file
from .._files import atomic_file
from ..errors import OutputError


class SavedMeasurements:
    """Rows by name: the results of preparing them, their scores, and their rounds.

    Damaged or foreign files are ignored. If the cache is not writable, nothing is saved.
    """

    def __init__(self, identity: object, resume: bool) -> None:
        """identity: benches with the same `repr` of it are the same; resume: load the saved measurements."""
        self._folder = cache_file("bench", repr(identity), "")
        self.rows: dict[str, dict[str, Any]] = {}
        if resume:
            with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                rows = json.loads((self._folder / "rows.json").read_text(encoding="utf-8"))
                self.rows = {name: row for name, row in rows.items() if isinstance(row["rounds"], list)}

    def scores(self, row: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
        """A row's scores (images, captions); None if they are not saved."""
        if row not in self.rows:
            return None
        with suppress(OSError, ValueError):
            scores: NDArray[np.float32] = np.load(self._scores_file(row), allow_pickle=False)
            if scores.shape == shape and scores.dtype == np.float32:
                return scores
        return None

    def keep(self, row: str, result: dict[str, Any], scores: NDArray[np.float32] | None = None) -> None:
        """Save a row's results so far."""
        self.rows[row] = result
        with suppress(OutputError, OSError):
            if scores is not None:
                with atomic_file(self._scores_file(row)) as temporary, temporary.open("wb") as stream:
                    np.save(stream, scores)
            with atomic_file(self._folder / "rows.json") as temporary:
                temporary.write_text(json.dumps(self.rows), encoding="utf-8")

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _scores_file(self, row: str) -> Path:
        return self._folder / f"{hashlib.sha256(row.encode()).hexdigest()[:16]}.npy"
