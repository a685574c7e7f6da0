"""`caan demo-world`: any number of drawn scenes as a split of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .._machine import MOST_THREADS, cpu_count
from . import options
from .output import log, show


@click.command(epilog=options.EXIT_CODES)
@click.argument("folder", type=options.PATH)
@click.option("--images", "count", type=click.IntRange(min=1), required=True, metavar="N", help="How many scenes.")
@click.option("--split", default="gallery", show_default=True, metavar="NAME", help="What the files begin with.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another world; 0 is that of caan demo.")
@click.option(
    "--first",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="The first scene's number.  [default: 2000, behind those of caan demo]",
)
@click.option("--pictures", is_flag=True, help="Also write thumbnails/ID.png, 11 KB each.")
@click.option(
    "--processes", type=click.IntRange(1, MOST_THREADS), help="[default: all cores available to this process]"
)
@options.overwrite
def demo_world(folder: Path, first: int | None, processes: int | None, overwrite: bool, **what: Any) -> None:
    """Draw N scenes of the demo world into FOLDER, a data set, with five captions each.

    The scenes are new to the model of caan demo, and FOLDER may be the world it was trained on. The same N, seed and
    first number give the same bytes on any number of processes. After an interruption, rerun the same command to
    resume.
    """
    from ..data.demo.large import FIRST, WorldPart, write_part

    part = WorldPart(first=FIRST if first is None else first, **what)
    try:
        write_part(folder, part, processes or cpu_count(), log, overwrite=overwrite, bars=True)
    except KeyboardInterrupt:
        log("interrupted; rerun the same command to resume")
        raise
    show(f"{folder}: {part.split}, {part.count:,} scenes from number {part.first:,} on, {5 * part.count:,} captions")
