"""Output of `caan search`: hits of one or more queries as tables, JSON or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._text import visible
from .output import show, show_json
from .tables import write_hits

if TYPE_CHECKING:
    from ..runtime import Gallery, Hit


def row(hit: Hit, gallery: Gallery) -> dict[str, Any]:
    """A hit as JSON data; `id` is null in a gallery without ids."""
    return {"index": hit.index, "id": gallery.ids and hit.id, "score": hit.score}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per hit: rank, score and id or index."""
    if not rows:
        return "  no hits"
    return "\n".join(
        f"{rank:3d}  {row['score']:8.4f}  {row['index'] if row['id'] is None else visible(row['id'])}"
        for rank, row in enumerate(rows, 1)
    )


def show_one(rows: Sequence[dict[str, Any]], as_json: bool, aside: bool) -> None:
    """Print the hits of one query; `aside`: on stderr."""
    if as_json:
        show_json(list(rows), err=aside)
    else:
        show(table(rows), err=aside)


def show_images(
    hit_lists: Sequence[Sequence[Hit]],
    numbers: Sequence[int] | None,
    gallery: Gallery,
    export: Path | None,
    **how: bool,
) -> None:
    """Print the hits of images; numbers: their indices in the file, None for a single image."""
    if export is not None:
        write_hits(export, zip(numbers or [0], hit_lists, strict=True), gallery.ids)
    rows = [[row(hit, gallery) for hit in hits] for hits in hit_lists]
    if numbers is None:
        show_one(rows[0], **how)
    elif how["as_json"]:
        show_json([{"image": n, "hits": hits} for n, hits in zip(numbers, rows, strict=True)], err=how["aside"])
    else:
        tables = (f"image {n}\n{table(hits)}" for n, hits in zip(numbers, rows, strict=True))
        show("\n\n".join(tables), err=how["aside"])
