"""Writes one split in SCAN's form: streamed, resumable, and published only when it is whole."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..._files import PARTIAL, atomic_file, explained, reserve, unfinished_folder
from ..._progress import progress_bar
from ...errors import DataError, OutputError
from ..scan import write_lines
from .item import Item, Source

_FEATURES, _BOXES, _CAPTIONS = "ims.npy", "boxes.npy", "caps.txt"
_PARTS = (_FEATURES, "lengths.npy", _BOXES, "ids.txt", _CAPTIONS)
_STATE = "progress.json"
_BLOCK = 64  # images between two notes of progress


@dataclass(frozen=True)
class SplitJob:
    """What a split holds: the source's images in order, their ids and captions (None: features alone)."""

    split: str
    images: Sequence[int]
    ids: Sequence[str]  # per image, or per caption where images have different numbers of them
    captions: Sequence[str] | None
    dtype: str = "float32"
    captions_of_items: bool = False  # instead of `captions`: those that the source reads with each image
    doing: str = "converting"  # for the progress bar


def check_free(folder: Path, split: str, *, overwrite: bool) -> None:
    """Raise OutputError if the split is there already."""
    there = [path for part in _PARTS if (path := folder / f"{split}_{part}").exists()]
    # Without features, the others may be those of a run that was killed while it moved them here.
    half = there and there[0].name != f"{split}_{_FEATURES}" and _state(folder / f"{split}{PARTIAL}").get("published")
    if there and not overwrite and not half:
        raise OutputError(f"{there[0]} exists already; add --overwrite to replace the split, or name another with -o")


def write(job: SplitJob, source: Source, folder: Path, *, overwrite: bool, progress: bool) -> None:
    """Write the split's files in `folder`.

    They are written in `{split}.partial` there and moved out when all are complete, the features last; until
    then the split doesn't exist. If interrupted, the same call resumes and writes the same bytes. Raises OutputError if
    the split exists, the disk is full or another process is writing it; DataError, naming the image, for features that
    don't fit or hold NaN or infinity.
    """
    partial, target = folder / f"{job.split}{PARTIAL}", folder / f"{job.split}_{_FEATURES}"
    with unfinished_folder(partial, target), explained(target, resumable=True):
        check_free(folder, job.split, overwrite=overwrite)
        state = _begun(partial, job, source)
        try:
            if not state.get("published"):
                _fill(partial, job, source, state, progress)
                _note(
                    partial,
                    {**state, "parts": [part for part in _PARTS if (partial / part).is_file()], "published": True},
                )
        except DataError:
            _empty(partial)  # nothing to resume
            raise
        _publish(partial, folder, job.split)


def _fill(partial: Path, job: SplitJob, source: Source, state: dict[str, Any], progress: bool) -> None:
    """Write all files, continuing at image `state["done"]`."""
    counts = source.regions[np.asarray(job.images, np.int64)]
    first = source.read(job.images[0])
    most, size = int(counts.max()), first.features.shape[1]
    shapes = {_FEATURES: (most, size)} if first.boxes is None else {_FEATURES: (most, size), _BOXES: (most, 4)}
    dtypes = {_FEATURES: np.dtype(job.dtype), _BOXES: np.dtype(np.float32)}
    done = int(state["done"])
    with (
        ExitStack() as stack,
        progress_bar(len(job.images), f"{job.doing} {job.split}", "image", progress, initial=done) as bar,
    ):
        rows = {
            name: stack.enter_context(_rows(partial / name, len(job.images), shape, dtypes[name], done))
            for name, shape in shapes.items()
        }
        files, texts = list(rows.values()), None
        if job.captions_of_items:
            texts = stack.enter_context(_lines(partial / _CAPTIONS, int(state.get("text", 0))))
            files.append(texts)
        for start in range(done, len(job.images), _BLOCK):
            block = range(start, min(start + _BLOCK, len(job.images)))
            for image in block:
                item = _checked(source, job.images[image], int(counts[image]), first)
                for name, values in ((_FEATURES, item.features), (_BOXES, item.boxes)):
                    if values is not None:
                        rows[name].write(_padded(values, shapes[name], dtypes[name], source.names[job.images[image]]))
                if texts is not None:
                    texts.write("".join(f"{caption}\n" for caption in item.captions).encode())
            for file in files:
                file.flush()
                os.fsync(file.fileno())  # before it is noted as done
            state |= {"done": block.stop, "arrays": list(shapes), "text": 0 if texts is None else texts.tell()}
            _note(partial, state)
            bar.update(len(block))
    np.save(partial / "lengths.npy", counts)
    write_lines(partial / "ids.txt", job.ids)
    if job.captions is not None:
        write_lines(partial / _CAPTIONS, job.captions)


def _checked(source: Source, image: int, regions: int, first: Item) -> Item:
    item, place = source.read(image), f"image {source.names[image][:80]!r}"
    if item.features.shape != (regions, first.features.shape[1]):
        raise DataError(
            f"{place} has features {item.features.shape}, expected {(regions, first.features.shape[1])} as the first"
            " image; extract all with the same detector"
        )
    if not np.isfinite(item.features).all():
        raise DataError(f"{place} has features that are NaN or infinite; extract it again")
    if (item.boxes is None) != (first.boxes is None):
        has, others = ("no boxes", "have some") if item.boxes is None else ("boxes", "have none")
        raise DataError(f"{place} has {has} in relation to its picture's size, other images {others}; extract it again")
    return item


def _padded(rows: NDArray[Any], shape: tuple[int, int], dtype: np.dtype[Any], name: str) -> bytes:
    """Rows (r, columns) padded with zeros to (R, columns), as a file holds them."""
    result = np.zeros(shape, dtype)
    with np.errstate(over="ignore"):
        result[: len(rows)] = rows
    if not np.isfinite(result).all():
        raise DataError(f"image {name[:80]!r} has features beyond {dtype}; convert without --dtype")
    return result.tobytes()


@contextmanager
def _rows(path: Path, images: int, shape: tuple[int, int], dtype: np.dtype[Any], done: int) -> Iterator[BinaryIO]:
    """An `.npy` file (images, *shape), open where image `done` begins; its whole size is reserved."""
    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(
        header, {"descr": description, "fortran_order": False, "shape": (images, *shape)}
    )
    start, row = header.tell(), math.prod(shape) * dtype.itemsize
    with path.open("r+b" if done else "w+b") as file:
        if not done:
            try:
                file.write(header.getvalue())
                file.truncate(start + images * row)
                reserve(path)
            except OSError:
                path.unlink(missing_ok=True)  # gives back what was reserved
                raise
        file.seek(start + done * row)
        yield file


@contextmanager
def _lines(path: Path, done: int) -> Iterator[BinaryIO]:
    """A text file, open at byte `done`, where the next line begins; what follows is cut off."""
    with path.open("r+b" if done else "w+b") as file:
        file.truncate(done)
        file.seek(done)
        yield file


def _begun(partial: Path, job: SplitJob, source: Source) -> dict[str, Any]:
    """The state of unfinished work on the same data; a new state, and an empty folder, if there is none."""
    what = json.dumps(
        [source.identity, list(job.images), job.dtype, list(job.ids), job.captions and list(job.captions)]
    )
    begun = {"job": hashlib.sha256(what.encode("utf-8", "replace")).hexdigest(), "done": 0}
    state = _state(partial)
    if state.get("job") == begun["job"] and (state.get("published") or _is_whole(partial, state, len(job.images))):
        return state
    _empty(partial)
    return begun


def _is_whole(partial: Path, state: dict[str, Any], images: int) -> bool:
    """Whether the arrays of unfinished work are there."""
    try:
        arrays = [np.load(partial / name, mmap_mode="r") for name in state["arrays"]]
        text = int(state.get("text", 0))
        if text and (partial / _CAPTIONS).stat().st_size < text:
            return False
    except (KeyError, TypeError, OSError, ValueError):
        return False
    return all(len(array) == images for array in arrays) and state["done"] <= images


def _empty(partial: Path) -> None:
    for name in (*_PARTS, _STATE):
        (partial / name).unlink(missing_ok=True)


def _state(partial: Path) -> dict[str, Any]:
    try:
        state = json.loads((partial / _STATE).read_bytes())
    except (OSError, ValueError):
        return {}
    is_state = isinstance(state, dict) and isinstance(state.get("done"), int) and state["done"] >= 0
    return state if is_state else {}


def _note(partial: Path, state: dict[str, Any]) -> None:
    with atomic_file(partial / _STATE) as temporary:
        temporary.write_text(json.dumps(state), encoding="utf-8")


def _move(path: Path, target: Path) -> None:
    path.replace(target)


def _publish(partial: Path, folder: Path, split: str) -> None:
    """Move the files to their place. The old features go first and the new ones come last."""
    parts = _state(partial).get("parts", [])
    if (partial / _FEATURES).is_file():
        (folder / f"{split}_{_FEATURES}").unlink(missing_ok=True)
        for part in (*_PARTS[1:], _FEATURES):
            if part not in parts:
                (folder / f"{split}_{part}").unlink(missing_ok=True)  # of an older split
            elif (partial / part).is_file():
                _move(partial / part, folder / f"{split}_{part}")
    shutil.rmtree(partial, ignore_errors=True)  # also a killed run's temporary files
