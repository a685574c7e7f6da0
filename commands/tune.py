"""`caan tune`: measure the fastest tiles and thread layout on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .output import log

if TYPE_CHECKING:
    from ..runtime.choices import BackendName, Device, Precision
    from ..runtime.scoring.tuning import Trial

# Random images for the trials without a gallery.
_IMAGES = 256


@click.command(epilog=options.EXIT_CODES)
@options.bundle
@click.option("--gallery", type=options.PATH, help="Images for the trials.  [default: 256 random ones]")
@options.backend
@options.precision
@options.device
@options.threads
@options.as_json
def tune(
    bundle: Path | None,
    gallery: Path | None,
    backend: BackendName,
    precision: Precision,
    device: Device,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find the fastest tiles and threads for BUNDLE on this machine, and keep them for searches.

    caan does this automatically before it scores many pairs, and again if a result is doubtful. Results are kept in
    $CAAN_CACHE, else ~/.cache/caan; caan doctor lists them.
    """
    import numpy as np

    from ..bundle import find_bundle
    from ..errors import InputError
    from ..runtime import Gallery, Retriever
    from ..runtime.scoring.tuning import is_tunable

    path = find_bundle(bundle, Path())
    retriever = Retriever.open(path, backend, precision, device=device, threads=threads)
    if not is_tunable(retriever.backend):
        raise InputError(
            f"the backend '{retriever.backend.name}' has nothing to tune; name another, as --backend onnxruntime"
        )
    if gallery is not None:
        images = Gallery.open(gallery)
    else:
        config = retriever.backend.model.config
        shape = (_IMAGES, int(config.get("num_regions") or 36), int(config["region_dim"]))
        images = retriever.encode_images(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    log("finding the fastest tiles and threads")
    tuning = retriever.tune(images)
    if as_json:
        click.echo(json.dumps({**asdict(tuning), "doubts": tuning.doubts}, indent=2))
        return
    click.echo(f"single queries\n{_table(tuning.query)}\n\nmany pairs\n{_table(tuning.pairs)}")
    for doubt in tuning.doubts:
        log(f"this may be inaccurate: {doubt}; rerun the command when the machine is idle")


def _table(trials: Sequence[Trial]) -> str:
    from ..runtime.scoring.tuning import best, describe

    fastest = best(trials)
    lines = []
    for trial in trials:
        star = "*" if trial is fastest else " "
        lines.append(f"{star} {describe(trial):<32} {trial.pairs_per_second:12,.0f} pairs/s")
    return "\n".join(lines)
