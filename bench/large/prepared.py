"""What the large bench searches: the demo's model with sketches, and galleries of drawn scenes. All is resumed."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..._machine import cpu_count
from ...data.demo.large import WorldPart, write_part
from ...data.demo.world import write_world
from ...data.scan import ScanSplit, open_split
from ...errors import CaanError
from ...runtime import Gallery, Retriever
from ..own_process import away_from_here

SMALL = 10_000  # scenes of the smaller galleries
_SPLIT = "gallery"
# Bytes of a scene in all: features, boxes and captions; float16 states of the image and of one caption; two sketches.
BYTES_PER_SCENE = 6_700 + 6_912 + 6_400 + 128
# Seconds of one core per scene: drawn, image and caption encoded; and of the rest, training included.
_SECONDS_PER_SCENE, _SECONDS = 0.007 + 0.0005 + 0.001, 900


@dataclass(frozen=True)
class Prepared:
    """Everything on disk. The galleries of `SMALL` scenes hold the first of the larger ones'."""

    folder: Path
    bundle: Path
    scenes: ScanSplit
    images: dict[int, Path]  # number of scenes → gallery of images
    captions: dict[int, Path]  # … and of the first caption of each

    def queries(self, count: int, among: int) -> tuple[list[str], list[int]]:
        """Captions that no gallery holds, of scenes spread over the first `among`; and these scenes, as queries."""
        scenes = [number * among // count for number in range(count)]
        return [self.scenes.captions[5 * scene + 1 + scene % 4] for scene in scenes], scenes


def estimate(scenes: int) -> str:
    """Time and disk of the whole bench, in words."""
    minutes = (_SECONDS + scenes * _SECONDS_PER_SCENE / cpu_count() + scenes * 0.004) / 60
    return f"{scenes:,} scenes: about {minutes:.0f} minutes and {scenes * BYTES_PER_SCENE / 1e9:.1f} GB"


def prepare(folder: Path, scenes: int, demo: Path, progress: Callable[[str], None]) -> Prepared:
    """Make what is missing in `folder`. `demo`: its trained model is used if it is there, else one is trained here.

    Raises CaanErrors as the functions it calls; OutputError if the disk is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "model.caan"
    if not bundle.exists():
        _make_bundle(bundle, demo, folder, progress)
    world = folder / f"world-{scenes}"
    if not (world / f"{_SPLIT}_ims.npy").exists():
        write_part(world, WorldPart(scenes, split=_SPLIT), cpu_count(), progress, bars=True)
    split = open_split(world, _SPLIT)
    retriever = Retriever.open(bundle)
    images, captions = {}, {}
    for count in sorted({min(SMALL, scenes), scenes}):
        ids = (split.ids or [])[:count]
        images[count], captions[count] = folder / f"images-{count}", folder / f"captions-{count}"
        for gallery, items in (
            (images[count], split.features[:count]),
            (captions[count], split.captions[: 5 * count : 5]),
        ):
            if not gallery.exists():
                progress(f"indexing {gallery.name}")
                Gallery.create(gallery, retriever, items, ids=ids, progress=True)
    return Prepared(folder, bundle, split, images, captions)


def _make_bundle(bundle: Path, demo: Path, folder: Path, progress: Callable[[str], None]) -> None:
    """A copy of the demo's bundle with sketches; without a demo, its model is trained as the demo does."""
    world, model = demo / "world", demo / "model.caan"
    if not (model.exists() and (world / "train_ims.npy").exists()):
        progress(f"{demo} has no model: drawing the demo's world and training takes three minutes")
        world, model, checkpoint = folder / "demo-world", folder / "demo.caan", folder / "demo.pt"
        if not (world / "test_boxes.npy").exists():
            write_world(world)
        if not checkpoint.exists():
            _caan("train", world, "-o", checkpoint)
        if not model.exists():
            _caan("export", checkpoint, "-o", model)
    copy = folder / "model.caan.partial"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(model, copy)
    _caan("sketch", copy, "--data", world)
    copy.rename(bundle)


def _caan(*arguments: str | Path) -> None:
    """A command of caan, in its own process; its output is for people."""
    command = [sys.executable, "-m", "caan", *map(str, arguments)]
    with away_from_here():
        code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code:
        raise CaanError(f"{shlex.join(['caan', *command[3:]])} failed with exit code {code}")
