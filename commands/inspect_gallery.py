"""`caan inspect` for galleries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import convert, to_builtins

from ..errors import BundleError


def describe_gallery(folder: Path) -> dict[str, Any]:
    """A gallery as JSON data. Sizes are in bytes; `reclaimable` is what `caan compact` would free.

    Opens the gallery, which verifies all hashes but the states'. Raises BundleError as `Gallery.open`.
    """
    from ..runtime import Gallery
    from ..runtime.galleries.folder import FORMAT, IDS, LENGTHS, SKETCHES, STATES, version_of
    from ..runtime.galleries.writer import JOURNAL
    from ..runtime.index import bundle_of, precision_of

    gallery = Gallery.open(folder)
    assert gallery.origin is not None
    d = gallery.origin.description
    bundle, precision, reason = None, None, None
    try:
        bundle = bundle_of(gallery, folder)
        precision = precision_of(gallery, bundle) if bundle.is_dir() else None
    except BundleError as error:
        reason = str(error)
    files = {STATES: d.rows * d.row_bytes, LENGTHS: d.lengths.size, IDS: 0 if d.ids is None else d.ids.size}
    files[SKETCHES] = 0 if d.sketch is None else d.items * d.sketch.columns
    return {
        "gallery": str(folder),
        "format": FORMAT,
        "version": version_of(d),
        "kind": d.kind,
        "items": len(gallery.live),
        "deleted": len(gallery) - len(gallery.live),
        "rows": d.rows,
        "longest": int(gallery.lengths.max()),
        "dtype": d.dtype,
        "columns": d.columns,
        "compact": d.compact,
        "accuracy": None if d.accuracy is None else to_builtins(d.accuracy),
        "ids": gallery.ids is not None,
        "blocks": len(d.blocks),
        "sketch": None if d.sketch is None else to_builtins(d.sketch),
        "curve": None if d.curve is None else to_builtins(d.curve),
        "encoder": d.encoder,
        "bundle": None if bundle is None else str(bundle),
        "bundle_not_used": reason,
        "precision": precision,
        "files": {name: size for name, size in files.items() if size},
        "reclaimable": (d.rows - int(gallery.lengths[gallery.live].sum())) * d.row_bytes,
        "interrupted_append": (folder / JOURNAL).exists(),
    }


def _sketch_lines(gallery: dict[str, Any]) -> list[str]:
    """Its sketches, and the recall measured with them."""
    from ..runtime.galleries.description import Curve
    from .inspect_text import labelled
    from .sketch import curve_lines

    if gallery["sketch"] is None:
        return []
    curve = None if gallery["curve"] is None else convert(gallery["curve"], Curve)
    first, *others = curve_lines(curve, gallery["items"], gallery["gallery"])
    lines = [labelled("sketches", f"{gallery['sketch']['columns']} bytes an item; {first}")]
    return [*lines, *(labelled("", line.strip()) for line in others)]


def gallery_text(gallery: dict[str, Any]) -> str:
    """The same as text for a terminal."""
    from .inspect_text import labelled, size_of

    kind, folder = gallery["kind"], gallery["gallery"]
    items, part = ("images", "regions") if kind == "image" else ("captions", "tokens")
    states = f"{gallery['dtype']}, {gallery['rows']:,} rows ({part}) × {gallery['columns']} columns"
    deleted = f"{gallery['deleted']:,} items, {size_of(gallery['reclaimable'])}; free it with: caan compact {folder}"
    made_with = (
        gallery["bundle_not_used"]
        or f"{gallery['bundle']}, {gallery['precision'] or 'with an encoder it no longer has'}"
    )
    lines = [
        folder,
        labelled("holds", f"{gallery['items']:,} {items} of up to {gallery['longest']} {part}"),
        labelled("ids", "yes" if gallery["ids"] else "none; items are named by their index"),
        labelled("states", states + (", compact: the rest is computed per query" if gallery["compact"] else "")),
        *([labelled("accuracy", accuracy_text(gallery["accuracy"]))] if gallery["accuracy"] else []),
        *_sketch_lines(gallery),
        labelled("made with", made_with),
        labelled("encoder", gallery["encoder"]),
        labelled("files", ", ".join(f"{name} {size_of(size)}" for name, size in gallery["files"].items())),
        *([labelled("deleted", deleted)] if gallery["deleted"] else []),
        *(
            [labelled("unfinished", "an append was interrupted; rerun it to resume")]
            if gallery["interrupted_append"]
            else []
        ),
    ]
    return "\n".join(lines)


def accuracy_text(accuracy: dict[str, Any]) -> str:
    """What bfloat16 or int8 states cost, in one line. accuracy: as in gallery.json."""
    check = accuracy["check"]
    if check is None:
        return "ungated: what they cost in R@K is not measured; to do so, index again with --data DIR"
    return f"{accuracy['status']} on {check['data']}: {check['summary']}"
