"""Scores and hits as files for other programs: .npy, or .csv with a header and one line per value."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..runtime.retriever import Hit

SUFFIXES = (".npy", ".csv")


def check_suffix(path: Path) -> None:
    """Raise InputError, before any work, unless the name ends in .npy or .csv."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} must end in .npy or .csv, which select the format")


def write_scores(path: Path, scores: NDArray[np.float32], ids: Sequence[str] | None = None) -> None:
    """Write scores (images, captions), as .npy array or as .csv lines of image, caption, score and id, if given."""

    def rows() -> Iterable[Sequence[Any]]:
        for image, row in enumerate(scores):
            name = [] if ids is None else [ids[image]]
            for caption, score in enumerate(row.tolist()):
                yield image, caption, f"{score:.9g}", *name

    _write(path, scores, ("image", "caption", "score", *([] if ids is None else ["id"])), rows())


def write_hits(path: Path, hit_lists: Iterable[tuple[int, Sequence[Hit]]], ids: Sequence[str] | None) -> None:
    """Write hits of queries, given by number, best first: query, rank (from 1), index, id and score.

    An .npy file holds a structured array of these without the id.
    """
    import numpy as np

    rows = [(q, rank, hit.index, hit.score) for q, hits in hit_lists for rank, hit in enumerate(hits, 1)]
    columns = [("query", np.int64), ("rank", np.int64), ("index", np.int64), ("score", np.float32)]
    lines = ((q, rank, index, ids[index] if ids else "", f"{score:.9g}") for q, rank, index, score in rows)
    _write(path, np.array(rows, columns), ("query", "rank", "index", "id", "score"), lines)


def _write(path: Path, array: NDArray[Any], header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    import numpy as np

    from .._files import atomic_file

    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".npy":
            with temporary.open("wb") as stream:
                np.save(stream, array, allow_pickle=False)
        else:
            with temporary.open("w", encoding="utf-8", newline="") as text:
                writer = csv.writer(text)
                writer.writerow(header)
                writer.writerows(rows)
