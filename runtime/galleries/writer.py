"""Writing a gallery's folder block by block, so that a run that was killed can go on and ends with the same bytes.

A block's states are written, then a line of the journal says so. What lies behind the last line's block does not
count. Only gallery.json, which is written last, makes the blocks part of the gallery.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from ..._files import read_regular
from ...errors import BundleError, CaanWarning, OutputError
from .folder import (
    DESCRIPTION,
    IDS,
    LENGTH,
    LENGTHS,
    STATES,
    Block,
    Description,
    block_of,
    part_of,
    read_description,
    write_description,
)

JOURNAL, _NEW_JOURNAL = "journal.jsonl", "journal.jsonl.tmp"
_OURS = {DESCRIPTION, STATES, LENGTHS, IDS, JOURNAL, _NEW_JOURNAL}


class Input(NamedTuple):
    """What a block is made from."""

    items: int
    rows: int
    crc32: int  # of all that its states depend on, the model aside


class GalleryWriter:
    """Appends blocks to the gallery `base` in a folder; a new gallery's `base` has none.

    Blocks that an earlier, interrupted run of the same job wrote are offered again: `keep` takes the next of them,
    `add` writes another in its place. `publish` ends the job. CaanWarning if the earlier run was another job: what it
    wrote is replaced. Raises OutputError for a folder with other files in it.
    """

    def __init__(self, folder: Path, base: Description) -> None:
        self._folder, self.base = folder, base
        if not base.blocks:
            _check_files(folder)
        self._earlier, self._published = _earlier_run(folder, base)
        self._blocks: list[Block] = []
        self._open = ExitStack()
        self._states: BinaryIO = self._open.enter_context((folder / STATES).open("ab"))
        self._journal: TextIO | None = None

    def __enter__(self) -> GalleryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a full disk, closing fails with what is still buffered; the first error says it all.
        with suppress(OSError):
            self._open.close()
        if kind is not None and not (self._blocks or self._earlier or self.base.blocks):
            self._discard()

    def is_published(self, inputs: Iterable[Input]) -> bool:
        """Whether the last append to this gallery was this very job, killed when all but its journal was done."""
        found = [Input(block.items, block.rows, block.crc32) for block in self._published]
        done = bool(found) and all(a == b for a, b in zip_longest(found, inputs))
        if found:
            self._published = ()
            (self._folder / JOURNAL).unlink()
        return done

    def keep(self, made_from: Input) -> bool:
        """Whether an earlier run wrote the next block, from this input, and it is whole; if so, it is taken."""
        number = len(self._blocks)
        if self._journal is not None or number >= len(self._earlier):
            return False
        block = self._earlier[number]
        if made_from != (block.items, block.rows, block.crc32) or self._hash(block) != block.sha256:
            return False
        self._blocks.append(block)
        return True

    def add(self, states: NDArray[np.floating], made_from: Input) -> None:
        """Write the next block: states (rows, columns) in the gallery's dtype."""
        if self._journal is None:
            self._journal = self._begin()
        content = np.ascontiguousarray(states, dtype=states.dtype.newbyteorder("<"))
        self._states.write(content.data)
        self._states.flush()
        block = Block(made_from.items, made_from.rows, hashlib.sha256(content.data).hexdigest(), made_from.crc32)
        self._blocks.append(block)
        self._journal.write(json.dumps(asdict(block)) + "\n")
        self._journal.flush()

    def publish(self, lengths: NDArray[np.int64], ids: Sequence[str] | None) -> None:
        """Make the blocks part of the gallery: lengths (items,) and ids of what is new."""
        self._states.truncate(self._end())
        self._states.flush()
        os.fsync(self._states.fileno())
        base = self.base
        all_lengths = _extend(self._folder / LENGTHS, base.lengths.size, lengths.astype(LENGTH).tobytes())
        all_ids = None
        if ids is None:
            (self._folder / IDS).unlink(missing_ok=True)
        else:
            lines = "".join(f"{json.dumps(name, ensure_ascii=False)}\n" for name in ids)
            all_ids = part_of(_extend(self._folder / IDS, base.ids.size if base.ids else 0, lines.encode("utf-8")))
        blocks = (*base.blocks, *self._blocks)
        write_description(self._folder, replace(base, blocks=blocks, lengths=part_of(all_lengths), ids=all_ids))
        (self._folder / _NEW_JOURNAL).unlink(missing_ok=True)
        (self._folder / JOURNAL).unlink(missing_ok=True)

    def _begin(self) -> TextIO:
        """Leave what comes after the blocks that are kept, and open a journal."""
        lost = self._earlier[len(self._blocks) :]
        if lost:
            _warn_of_another_job(self._folder, lost)
        self._states.truncate(self._end())
        return self._open.enter_context(_new_journal(self._folder, self.base, self._blocks))

    def _discard(self) -> None:
        """Leave nothing behind of a gallery that never came to be."""
        for name in _OURS:
            (self._folder / name).unlink(missing_ok=True)

    def _end(self) -> int:
        """Where the blocks that count end in the file of states."""
        rows = self.base.rows + sum(block.rows for block in self._blocks)
        return rows * self.base.row_bytes

    def _hash(self, block: Block) -> str:
        with (self._folder / STATES).open("rb") as file:
            file.seek(self._end())
            return hashlib.sha256(file.read(block.rows * self.base.row_bytes)).hexdigest()


def _check_files(folder: Path) -> None:
    """Raise OutputError if something in the folder of a new gallery is not from an earlier run."""
    for path in sorted(folder.iterdir()):
        if path.name not in _OURS and not path.match(f".{DESCRIPTION}.*.tmp"):
            raise OutputError(
                f"{folder} is where the gallery is written first, but holds {path.name}, which caan index did not"
                " write; move it away, or name another gallery with -o"
            )


def _earlier_run(folder: Path, base: Description) -> tuple[Sequence[Block], Sequence[Block]]:
    """(blocks that an earlier run of this job wrote, blocks that the last run published without ending its journal)."""
    header, blocks = _read_journal(folder)
    if header is not None:
        if header == _header(base):
            return blocks, ()
        before = replace(base, blocks=base.blocks[: header["blocks"]])
        published = base.blocks[header["blocks"] :]
        if header == _header(before) and published and published == tuple(blocks):
            return (), published
    elif not base.blocks:  # published, and killed before the folder was moved into place
        with suppress(BundleError):
            found = read_description(folder)
            blocks = list(found.blocks)
            if _header(replace(found, blocks=())) == _header(base):
                return blocks, ()
    if blocks:
        _warn_of_another_job(folder, blocks)
    return (), ()


def _warn_of_another_job(folder: Path, blocks: Sequence[Block]) -> None:
    items = sum(block.items for block in blocks)
    warnings.warn(
        f"an interrupted run left {items} encoded items in {folder}, of another model, other options or other input;"
        " they are replaced",
        CaanWarning,
        stacklevel=5,
    )


def _header(base: Description) -> dict[str, Any]:
    """What tells a job from others, as JSON gives it back. The bundle's hash counts, not its place."""
    return {
        **{key: getattr(base, key) for key in ("kind", "encoder", "dtype", "columns", "compact")},
        "blocks": len(base.blocks),
    }


def _new_journal(folder: Path, base: Description, blocks: Sequence[Block]) -> TextIO:
    """A journal that holds these blocks, open for more. The old one is there until the new one is complete."""
    temporary = folder / _NEW_JOURNAL
    lines = [_header(base), *map(asdict, blocks)]
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    temporary.replace(folder / JOURNAL)
    return (folder / JOURNAL).open("a", encoding="utf-8")


def _read_journal(folder: Path) -> tuple[dict[str, Any] | None, list[Block]]:
    """Header and blocks, up to a line that was cut off or damaged; None without a journal."""
    try:
        header, *lines = read_regular(folder / JOURNAL).decode("utf-8").split("\n")
        found = json.loads(header)
        if type(found["blocks"]) is not int or found["blocks"] < 0:
            return None, []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, []
    blocks = []
    with suppress(ValueError, TypeError, RecursionError):
        for line in lines[:-1]:  # what follows the last line end is not a whole line
            blocks.append(block_of(json.loads(line)))
    return found, blocks


def _extend(path: Path, size: int, content: bytes) -> bytes:
    """Put `content` behind the first `size` bytes of a file, and give back all of it."""
    with path.open("r+b" if path.exists() else "x+b") as file:
        file.truncate(size)
        before = file.read(size)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return before + content
