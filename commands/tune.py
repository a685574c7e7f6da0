"""`caan tune`: the fastest tiles and thread layout on this machine, measured now."""

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

# Images that are tried with where no gallery is named.
_IMAGES = 256


@click.command(epilog=options.EXIT_CODES)
@options.bundle
@click.option("--gallery", type=options.PATH, help="Of images, to try with.  [default: 256 images of random numbers]")
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

    caan does so by itself before it scores many pairs, and again where it has reason to doubt the result. It is kept in
    $CAAN_CACHE, else ~/.cache/caan; caan doctor shows what is there.
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
            f"the backend '{retriever.backend.name}' has nothing to tune: it scores in one way; to tune another, name"
            " it: --backend onnxruntime"
        )
    if gallery is not None:
        images = Gallery.open(gallery)
    else:
        config = retriever.backend.model.config
        shape = (_IMAGES, int(config.get("num_regions") or 36), int(config["region_dim"]))
        images = retriever.encode_images(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    log("trying which tiles and threads are fastest")
    found = retriever.tune(images)
    if as_json:
        click.echo(json.dumps({**asdict(found), "doubts": found.doubts}, indent=2))
        return
    click.echo(f"single queries\n{_table(found.query)}\n\nmany pairs\n{_table(found.pairs)}")
    for doubt in found.doubts:
        log(f"this may be wrong: {doubt}; give the command again when the machine is quiet")


def _table(trials: Sequence[Trial]) -> str:
    from ..runtime.scoring.tuning import best, describe

    fastest = best(trials)
    lines = []
    for trial in trials:
        star = "*" if trial is fastest else " "
        lines.append(f"{star} {describe(trial):<32} {trial.pairs_per_second:12,.0f} pairs/s")
    return "\n".join(lines)
