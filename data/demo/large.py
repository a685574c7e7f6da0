"""Any number of scenes of the demo world as one split of a data set: drawn by several processes, a block in memory."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._files import PARTIAL, atomic_file, explained
from ...errors import DataError, OutputError
from ..convert.item import Item
from ..convert.writing import SplitJob, check_free, write
from ..vocabulary import Vocabulary
from .processes import in_order
from .regions import REGION_DIM, REGIONS
from .world import DEV_SCENES, TEST_SCENES, TRAIN_SCENES, check_can_draw, draw_scene, scene_name, world_vocabulary

# Behind the scenes of `caan demo`: none that its model was trained on.
FIRST = TRAIN_SCENES + DEV_SCENES + TEST_SCENES
_BLOCK = 32  # scenes that a process draws at a time
_TIMED = 16  # scenes drawn to estimate the time
# Bytes of a scene: features and boxes, five captions and an id; and of its picture, on average.
_SCENE = REGIONS * (REGION_DIM + 4) * 4 + 340
_PICTURE = 11_000
_SPARE = 1 << 20

_Drawn = tuple[Item, bytes | None]  # and its picture, as PNG


@dataclass(frozen=True)
class WorldPart:
    """Which scenes to draw: `first` … `first + count - 1` of the world `seed`, as the split `split`."""

    count: int
    seed: int = 0
    split: str = "gallery"
    first: int = FIRST
    pictures: bool = False  # also thumbnails/{id}.png

    @property
    def size(self) -> int:
        """Bytes on disk, about."""
        return self.count * (_SCENE + self.pictures * _PICTURE)


def write_part(
    folder: Path,
    part: WorldPart,
    processes: int,
    progress: Callable[[str], None] = lambda message: None,
    *,
    overwrite: bool = False,
    bars: bool = False,
) -> None:
    """Write a part of the world as a split of the data set `folder`, with the vocabulary of the demo.

    The bytes depend on `part` alone, not on `processes`. If interrupted, the same call resumes. Raises OutputError if
    the split exists, the folder holds another vocabulary or can't be written, or the disk is too small; DataError for
    a number that isn't possible; MissingError without Pillow.
    """
    check_can_draw()
    _check(part, processes)
    check_free(folder, part.split, overwrite=overwrite)
    vocabulary, path = world_vocabulary(part.seed), folder / "vocab.json"
    _check_vocabulary(path, vocabulary, part.seed)
    _check_disk(folder, part)
    progress(_estimate(part, processes))
    is_new = not folder.exists()
    try:
        if not path.exists():
            vocabulary.save(path)
        source = _Scenes(part, processes, folder / "thumbnails")
        job = SplitJob(part.split, range(part.count), source.names, None, captions_of_items=True, doing="drawing")
        with closing(source):
            write(job, source, folder, overwrite=overwrite, progress=bars)
    except BaseException:
        if is_new and not (folder / f"{part.split}{PARTIAL}").exists():  # nothing to resume
            with suppress(OSError):
                path.unlink(missing_ok=True)
                folder.rmdir()
        raise


class _Scenes:
    """The scenes of a part as a source of `data/convert`, which reads them in order."""

    def __init__(self, part: WorldPart, processes: int, pictures: Path) -> None:
        self._part, self._processes, self._pictures = part, processes, pictures
        self.names = [scene_name(number) for number in range(part.first, part.first + part.count)]
        self.regions = np.full(part.count, REGIONS, np.int64)
        self.identity: list[Any] = ["caan demo world", part.seed, part.first, part.count, part.pictures]
        self._next, self._drawn = 0, _nothing()

    def read(self, image: int) -> Item:
        if image == 0:  # asked for twice, and by a resumed run before the rest
            ((item, picture),) = self._draw(range(1))
        else:
            if image != self._next:
                self.close()
                self._next, self._drawn = image, self._from(image)
            item, picture = next(self._drawn)
            self._next += 1
        if picture is not None:
            with atomic_file(self._pictures / f"{self.names[image]}.png") as temporary:
                temporary.write_bytes(picture)
        return item

    def close(self) -> None:
        self._drawn.close()

    @property
    def _draw(self) -> Callable[[range], list[_Drawn]]:
        return partial(_draw, seed=self._part.seed, first=self._part.first, pictures=self._part.pictures)

    def _from(self, image: int) -> Generator[_Drawn, None, None]:
        starts = range(image, self._part.count, _BLOCK)
        blocks = [range(start, min(start + _BLOCK, self._part.count)) for start in starts]
        with closing(in_order(self._draw, blocks, self._processes)) as drawn:
            for block in drawn:
                yield from block


def _nothing() -> Generator[_Drawn, None, None]:
    yield from ()


def _draw(images: range, seed: int, first: int, pictures: bool) -> list[_Drawn]:
    """Some scenes of a part, by their place in it, and their pictures as PNG."""
    drawn: list[_Drawn] = []
    for image in images:
        scene = draw_scene(first + image, seed)
        picture = None
        if pictures:
            file = io.BytesIO()
            scene.image.save(file, format="PNG")
            picture = file.getvalue()
        drawn.append((Item(scene.features, scene.boxes, scene.captions), picture))
    return drawn


def _check(part: WorldPart, processes: int) -> None:
    if part.count < 1 or part.first < 0:
        raise DataError(f"can't draw {part.count:,} scenes from number {part.first:,} on; name 1 or more, from 0 on")
    if processes < 1:
        raise DataError(f"can't draw on {processes} processes; name 1 or more")
    if not re.fullmatch(r"\w[\w.-]*", part.split):
        raise DataError(f"'{part.split[:80]}' can't name a split: use letters, digits, -, _ and .")


def _check_vocabulary(path: Path, vocabulary: Vocabulary, seed: int) -> None:
    """The folder may be a data set of the same world: every split of it has one vocabulary."""
    if not path.exists():
        return
    try:
        found = Vocabulary.load(path)
    except DataError:
        found = None
    if found is None or found.as_dict() != vocabulary.as_dict():
        raise OutputError(
            f"{path} is not the vocabulary of the world of seed {seed}; name another folder, or that world's --seed"
        )


def _check_disk(folder: Path, part: WorldPart) -> None:
    with explained(folder, creating=True):
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free
        unfinished = folder / f"{part.split}{PARTIAL}"
        free += sum(path.stat().st_blocks * 512 for path in unfinished.glob("*")) if unfinished.is_dir() else 0
    if free < part.size + _SPARE:
        raise OutputError(
            f"{part.count:,} scenes need {part.size / 1e9:.1f} GB, the disk of {folder} has {free / 1e9:.1f} GB free;"
            " free some space, or name another place or fewer --images"
        )


def _estimate(part: WorldPart, processes: int) -> str:
    draw_scene(part.first, part.seed)  # the first one also computes what all need
    started = time.perf_counter()
    count = min(_TIMED, part.count)
    _draw(range(count), part.seed, part.first, part.pictures)
    minutes = (time.perf_counter() - started) / count * part.count / min(processes, part.count) / 60
    time_needed = f"{minutes:.0f} minutes" if minutes >= 2 else f"{minutes * 60:.0f} seconds"
    on = "1 process" if processes == 1 else f"{processes} processes"
    return f"drawing {part.count:,} scenes: about {time_needed} on {on}, {part.size / 1e9:.2g} GB"
