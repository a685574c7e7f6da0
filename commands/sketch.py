"""`caan sketch`: what searches of large galleries need, in a bundle or a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..bundle import MANIFEST
from ..errors import DataError
from . import options
from .output import log, show

if TYPE_CHECKING:
    from ..data.scan import ScanSplit
    from ..export.sketch_from_data import SketchReport
    from ..runtime.choices import BackendName, Device, Precision


@click.command(epilog=options.EXIT_CODES)
@click.argument("path", metavar="BUNDLE|GALLERY", type=options.PATH)
@click.option(
    "--data",
    type=options.PATH,
    metavar="DIR",
    help="For a bundle: a data set whose items calibrate, and measure recall.",
)
@click.option("--calibration-split", default="train", show_default=True, help="Split of --data to calibrate with.")
@click.option("--split", default=None, help="Split of --data to measure recall on.  [default: dev, else test]")
@click.option("--columns", type=click.IntRange(min=1), help="Bytes of a sketch, a multiple of 16.  [default: 64]")
@click.option("--calibration", type=click.IntRange(min=1), help="Calibration items of each kind.  [default: 8]")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the calibration items.")
@click.option("--measure", is_flag=True, help="For a gallery: measure recall again, even if its sketches stay.")
@click.option("--no-measure", is_flag=True, help="For a gallery: only the sketches.")
@click.option(
    "--pairs", type=click.IntRange(min=1), help="Pairs scored exactly to measure recall.  [default: 4,000,000]"
)
@click.option("--bundle", type=options.PATH, metavar="BUNDLE", help="[default: the one the gallery was made with]")
@options.backend
@options.device
@options.threads
def sketch(
    path: Path,
    data: Path | None,
    calibration_split: str,
    split: str | None,
    columns: int | None,
    calibration: int | None,
    seed: int,
    measure: bool,
    no_measure: bool,
    pairs: int | None,
    bundle: Path | None,
    backend: BackendName,
    device: Device,
    threads: int | None,
) -> None:
    """Give BUNDLE a sketch, with --data, or GALLERY the sketches for searches by recall.

    A sketch is a few bytes per item that tell which items are worth scoring exactly. Galleries indexed with a bundle
    that has a sketch have theirs already. How many must be scored for a given recall is measured on the gallery, with
    queries from the data set.
    """
    if (path / MANIFEST).exists():
        if data is None:
            raise click.UsageError("a bundle's sketch is made from a data set; add --data DIR")
        _of_bundle(path, data, calibration_split, split, columns, calibration, seed)
        return
    given = {"--data": data, "--split": split, "--columns": columns, "--calibration": calibration}
    for name, value in given.items():
        if value is not None:
            raise click.UsageError(f"{name} is for a bundle, and {path} is not one")
    if measure and no_measure:
        raise click.UsageError("give one of --measure and --no-measure")
    _of_gallery(path, measure, no_measure, pairs, bundle, backend, device, threads)


def _of_bundle(
    path: Path,
    data: Path,
    calibration_split: str,
    split: str | None,
    columns: int | None,
    calibration: int | None,
    seed: int,
) -> None:
    from ..data.scan import open_split
    from ..errors import needs

    with needs("export", "caan sketch"):
        from ..export.sketch_from_data import CALIBRATION, COLUMNS, SketchOptions, sketch_bundle
    chosen = SketchOptions(columns or COLUMNS, calibration or CALIBRATION, seed)
    names = [split] if split is not None else [name for name in ("dev", "test") if _has_split(data, name)]
    measured = open_split(data, names[0]) if names else None
    _show(path, sketch_bundle(path, open_split(data, calibration_split), measured, chosen, log))


def add_sketch(bundle: Path, measured: ScanSplit) -> None:
    """Give an exported bundle a sketch from the data set's split train, if it has one that is large enough."""
    from ..data.scan import open_split
    from ..export.sketch_from_data import FEWEST_IMAGES, sketch_bundle

    if not _has_split(measured.folder, "train"):
        return
    calibration = open_split(measured.folder, "train")
    if len(calibration.features) < FEWEST_IMAGES:
        return
    _show(bundle, sketch_bundle(bundle, calibration, measured, progress=log))


def _show(path: Path, report: SketchReport) -> None:
    show(f"{path}: a sketch of {report.record['columns']} bytes an item")
    for line in recall_lines(report.record):
        show(line)
    if report.record["status"] == "weak":
        log(
            "this model's attention depends so much on the pair that sketches tell little: searches with a high recall"
            " score most of a gallery, or all of it; docs/large_galleries.md says what helps"
        )


def _of_gallery(
    path: Path,
    measure: bool,
    no_measure: bool,
    pairs: int | None,
    bundle: Path | None,
    backend: BackendName,
    device: Device,
    threads: int | None,
) -> None:
    from typing import cast

    from ..runtime import Gallery, Retriever
    from ..runtime.index import bundle_of, precision_of
    from ..runtime.sketches.curve import PAIRS, is_stale

    gallery = Gallery.open(path)
    model = bundle or bundle_of(gallery, path)
    precision = cast("Precision", (precision_of(gallery, model) if model.is_dir() else None) or "fp32")
    retriever = Retriever.open(model, backend, precision, device=device, threads=threads)
    had = gallery.sketches
    curve = None if had is None else had.curve
    is_due = measure or (not no_measure and (curve is None or is_stale(curve, len(gallery.live))))
    gallery = retriever.sketch(gallery, measure=is_due, pairs=pairs or PAIRS, progress=True)
    assert gallery.sketches is not None
    is_new = had is None or had.model != gallery.sketches.model
    if is_new and not (is_due or no_measure):  # other sketches than before: their recall is not known
        gallery = retriever.sketch(gallery, measure=True, pairs=pairs or PAIRS, progress=True)
    assert gallery.sketches is not None
    what = "sketched" if is_new else "sketches are kept"
    show(f"{path}: {what}, {len(gallery):,} items of {gallery.sketches.columns} bytes")
    for line in curve_lines(gallery.sketches.curve, len(gallery.live), path):
        show(line)


def _has_split(data: Path, split: str) -> bool:
    from ..data.scan import find_split

    try:
        find_split(data, split)
    except DataError:
        return False
    return True


def recall_lines(record: dict[str, Any]) -> list[str]:
    """A bundle's measured recall, a line per direction."""
    names = {"image": "text → image", "text": "image → text"}
    lines = []
    for kind, entry in record.get("recall", {}).items():
        number = "all" if entry["candidates"] is None else f"{entry['candidates']:,}"
        lines.append(
            f"{names[kind]}: {entry['recall']:.0%} of the exact best {entry['k']} are among the first {number} of"
            f" {entry['items']:,}"
        )
    return lines


def curve_lines(curve: Any, live: int, gallery: str | Path) -> list[str]:
    """A gallery's measured recall, for people."""
    from ..runtime.sketches.curve import choose, is_stale

    if curve is None:
        return [f"recall not measured; measure it: caan sketch {gallery} --measure"]
    sampled = "" if curve.sample == curve.items else f", on a sample of {curve.sample:,}"
    lines = [f"recall, measured with {curve.queries} queries{sampled}:"]
    k = max((k for k in curve.k if k <= 10), default=curve.k[0])
    for recall in (0.9, 0.95, 0.99):
        chosen = choose(curve, live, k, recall)
        if chosen.candidates is None or chosen.recall is None:
            lines.append(f"  {recall:.0%} of the best {k}: exact search")
            continue
        low, high = chosen.recall.low, chosen.recall.high
        lines.append(
            f"  {recall:.0%} of the best {k}: {chosen.candidates:,} candidates"
            f" (measured {chosen.recall.value:.1%}, 95 % interval {low:.1%} to {high:.1%})"
        )
    if is_stale(curve, live):
        lines.append(
            f"stale: measured with {curve.items:,} items, now {live:,}; measure again: caan sketch {gallery} --measure"
        )
    return lines
