"""Writes a gallery's folder block by block, so that an interrupted run can resume and produce identical bytes.

A block's states are written, then recorded as a line of the journal. Data after the last recorded block is ignored.
An append's blocks are collected in states.new.bin and finally appended to a copy of the gallery's states. Only
replacing gallery.json, the last step, makes the blocks part of the gallery.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import zip_longest
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, TextIO

import numpy as np
from msgspec import to_builtins
from msgspec.structs import replace
from numpy.typing import NDArray

from ..._files import open_regular, read_regular
from ..._files.claims import claimed, is_running
from ..._schema import typed
from ...errors import BundleError, CaanWarning, OutputError
from .description import Block, Description
from .folder import (
    DESCRIPTION,
    IDS,
    LENGTH,
    LENGTHS,
    SKETCHES,
    STATES,
    part_of,
    read_description,
    write_description,
)
from .regular import check_regular, copy_bytes, create, keep_mode, reopen

NEW_STATES = "states.new.bin"  # of an append
NEW_SKETCHES = "sketches.new.bin"
JOURNAL, _NEW_JOURNAL = "journal.jsonl", "journal.jsonl.tmp"
_COPY = ".tmp"
_COPIES = {f"{name}{_COPY}" for name in (STATES, LENGTHS, IDS, SKETCHES)}
_OURS = {DESCRIPTION, STATES, LENGTHS, IDS, SKETCHES, JOURNAL, _NEW_JOURNAL, NEW_STATES, NEW_SKETCHES, *_COPIES}


class Input(NamedTuple):
    """The input of a block."""

    items: int
    rows: int
    crc32: int  # of everything its states depend on, except the model


class GalleryWriter:
    """Appends blocks to the gallery `base` in a folder; a new gallery's `base` has no blocks.

    Blocks from an earlier, interrupted run of the same job can be reused: `keep` accepts the next of them, `add` writes
    a new one instead. `publish` completes the job. CaanWarning if the earlier run was another job, whose blocks are
    then replaced. Raises OutputError for a folder that holds other files, or links.

    Appended blocks go to separate files; published files are never written to, since others may have them mapped.
    alone: a lock keeps other processes out. Without one, an append works in a folder of its own, which is removed when
    this process ends.
    """

    def __init__(self, folder: Path, base: Description, *, alone: bool = True) -> None:
        self._folder, self.base, self._alone = folder, base, alone
        _check_files(folder, is_new=not base.blocks)
        self._open = ExitStack()
        self._work = folder if alone or not base.blocks else self._open.enter_context(_private_folder(folder))
        self._path = self._work / (NEW_STATES if base.blocks else STATES)
        self._earlier, self._published = _earlier_run(self._work, base)
        self._blocks: list[Block] = []
        self._states: BinaryIO | None = None
        self._sketches: list[bytes] = []  # of each block
        self._sketches_file: BinaryIO | None = None
        self._journal: TextIO | None = None

    def __enter__(self) -> GalleryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # On a full disk, closing fails again on buffered data; the first error is enough.
        with suppress(OSError):
            self._open.close()
        if kind is not None:
            for name in _OURS if not (self._blocks or self._earlier or self.base.blocks) else _COPIES:
                (self._work / name).unlink(missing_ok=True)

    def is_published(self, inputs: Iterable[Input]) -> bool:
        """Whether the last append was this same job, killed after publishing but before removing its journal."""
        published = [Input(block.items, block.rows, block.crc32) for block in self._published]
        done = bool(published) and all(a == b for a, b in zip_longest(published, inputs))
        if published:
            self._published = ()
            self._end_work()
        return done

    def keep(self, made_from: Input) -> bool:
        """Reuse the next block if an earlier run wrote it completely from this input; returns whether it did."""
        number = len(self._blocks)
        if self._journal is not None or number >= len(self._earlier):
            return False
        block = self._earlier[number]
        if made_from != (block.items, block.rows, block.crc32) or self._hash(block) != block.sha256:
            return False
        if self.base.sketch is not None:
            sketches = self._earlier_sketches(block)
            if sketches is None:
                return False
            self._sketches.append(sketches)
        self._blocks.append(block)
        return True

    def add(self, states: NDArray[Any], made_from: Input, sketches: NDArray[np.int8] | None = None) -> None:
        """Write the next block: states as the gallery stores them, and sketches (items, columns) if it has them."""
        if self._journal is None:
            self._journal = self._begin()
        content = np.ascontiguousarray(states, dtype=states.dtype.newbyteorder("<"))
        file = self._states_file()
        file.write(content.data)
        file.flush()
        sketched = None
        if sketches is not None and self._sketches_file is not None:
            self._sketches.append(sketches.tobytes())
            self._sketches_file.write(self._sketches[-1])
            self._sketches_file.flush()
            sketched = hashlib.sha256(self._sketches[-1]).hexdigest()
        states_hash = hashlib.sha256(content.data).hexdigest()
        block = Block(made_from.items, made_from.rows, states_hash, made_from.crc32, sketched)
        self._blocks.append(block)
        self._journal.write(json.dumps(to_builtins(block)) + "\n")
        self._journal.flush()

    def publish(self, lengths: NDArray[np.int64], ids: Sequence[str] | None) -> None:
        """Make the blocks part of the gallery; lengths (items,) and ids are those of the new items.

        Raises OutputError if another process changed the gallery meanwhile.
        """
        base, file = self.base, self._states_file()
        os.fsync(file.fileno())
        copies = [self._extend(STATES, base.rows * base.row_bytes, file)] if base.blocks else []
        copies.append(self._extend(LENGTHS, base.lengths.size, lengths.astype(LENGTH).tobytes()))
        all_lengths, all_ids = part_of(copies[-1].read_bytes()), None
        if ids is not None:
            lines = "".join(f"{json.dumps(name, ensure_ascii=False)}\n" for name in ids).encode("utf-8")
            copies.append(self._extend(IDS, base.ids.size if base.ids else 0, lines))
            all_ids = part_of(copies[-1].read_bytes())
        if base.sketch is not None:
            copies.append(self._extend(SKETCHES, base.items * base.sketch.columns, b"".join(self._sketches)))
        blocks = (*base.blocks, *self._blocks)
        with publishing(self._folder, base, alone=self._alone):
            for copy in copies:
                copy.replace(self._folder / copy.name.removesuffix(_COPY))
            if ids is None:
                (self._folder / IDS).unlink(missing_ok=True)
            write_description(self._folder, replace(base, blocks=blocks, lengths=all_lengths, ids=all_ids))
        self._end_work()

    def _begin(self) -> TextIO:
        """Discard everything after the reused blocks, and open a journal."""
        discarded = self._earlier[len(self._blocks) :]
        if discarded:
            _warn_of_another_job(self._folder, discarded)
        self._states_file()
        if self.base.sketch is not None:
            self._sketches_file = self._open.enter_context(create(self._work / NEW_SKETCHES))
            self._sketches_file.write(b"".join(self._sketches))
            self._sketches_file.flush()
        if not self.base.blocks:  # left by a gallery that was published here
            (self._work / DESCRIPTION).unlink(missing_ok=True)
        return self._open.enter_context(_new_journal(self._work, self.base, self._blocks))

    def _states_file(self) -> BinaryIO:
        """The file of new states, positioned after the valid blocks."""
        if self._states is None:
            is_published = not self.base.blocks and (self._work / DESCRIPTION).exists()
            opened = reopen(self._path, self._size(), is_published=is_published) if self._blocks else create(self._path)
            self._states = self._open.enter_context(opened)
        return self._states

    def _extend(self, name: str, size: int, content: BinaryIO | bytes) -> Path:
        """A copy of the first `size` bytes of a published file, with `content` appended."""
        copy = self._work / f"{name}{_COPY}"
        with create(copy) as file:
            if size:
                with open_regular(self._folder / name) as before:
                    copy_bytes(before, file, size)
                    keep_mode(file, os.fstat(before.fileno()))
            if isinstance(content, bytes):
                file.write(content)
            else:
                copy_bytes(content, file, self._size())
            file.flush()
            os.fsync(file.fileno())
        return copy

    def _end_work(self) -> None:
        for name in (NEW_STATES, NEW_SKETCHES, _NEW_JOURNAL, JOURNAL):
            (self._work / name).unlink(missing_ok=True)

    def _size(self) -> int:
        """Bytes of the valid new blocks."""
        return sum(block.rows for block in self._blocks) * self.base.row_bytes

    def _earlier_sketches(self, block: Block) -> bytes | None:
        """A block's sketches from an earlier run's file; None if they are not there as written."""
        assert self.base.sketch is not None
        columns, file = self.base.sketch.columns, self._work / NEW_SKETCHES
        if not self.base.blocks and not file.exists():  # published, and killed before the folder was moved into place
            file = self._work / SKETCHES
        try:
            with open_regular(file) as opened:
                opened.seek(sum(block.items for block in self._blocks) * columns)
                content = opened.read(block.items * columns)
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == block.sketches else None

    def _hash(self, block: Block) -> str | None:
        try:
            with open_regular(self._path) as file:
                file.seek(self._size())
                return hashlib.sha256(file.read(block.rows * self.base.row_bytes)).hexdigest()
        except OSError:
            return None


@contextmanager
def publishing(folder: Path, base: Description, *, alone: bool) -> Iterator[None]:
    """Surrounds replacing a gallery's files: raises OutputError unless it is still `base`. Not checked if it is new.

    alone: a lock already keeps other processes out; otherwise they are kept out for the duration.
    """
    with nullcontext() if alone else claimed(folder):
        if base.blocks and read_description(folder) != base:
            raise changed_meanwhile(folder)
        yield


def changed_meanwhile(folder: Path) -> OutputError:
    return OutputError(
        f"{folder} was changed by another process meanwhile, so this one added and deleted nothing; run the command"
        " again"
    )


@contextmanager
def _private_folder(gallery: Path) -> Iterator[Path]:
    """A folder inside a gallery for one process's work; removes those left by killed processes."""
    for leftover in gallery.glob(".append-*.tmp"):
        process, _, machine = leftover.name.removeprefix(".append-").rpartition("-")[0].partition("-")
        if not is_running(process, machine):
            shutil.rmtree(leftover, ignore_errors=True)
    prefix = f".append-{os.getpid()}-{platform.node()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=gallery) as folder:
        yield Path(folder)


def _check_files(folder: Path, *, is_new: bool) -> None:
    """Raise OutputError for links, and for files in a new gallery's folder that no earlier run wrote."""
    for path in sorted(folder.iterdir()):
        if path.name in _OURS:
            check_regular(path)
        elif is_new and not path.match(f".{DESCRIPTION}.*.tmp"):
            raise OutputError(
                f"{folder} is the gallery's working folder, but holds {path.name}, which caan index did not write; move"
                " it away, or name another gallery with -o"
            )


def _earlier_run(folder: Path, base: Description) -> tuple[Sequence[Block], Sequence[Block]]:
    """(blocks written by an earlier run of this job, blocks the last run published without removing its journal)."""
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
            description = read_description(folder)
            blocks = list(description.blocks)
            if _header(replace(description, blocks=())) == _header(base):
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
    """What identifies a job, as read back from JSON: the encoder's hash, not the bundle's path."""
    return {
        **{key: getattr(base, key) for key in ("kind", "encoder", "dtype", "columns", "compact")},
        "blocks": len(base.blocks),
        **({} if base.sketch is None else {"sketch": base.sketch.model}),
    }


def _new_journal(folder: Path, base: Description, blocks: Sequence[Block]) -> TextIO:
    """A journal of these blocks, open for appending. It replaces the old one only when complete."""
    temporary = folder / _NEW_JOURNAL
    lines = [_header(base), *map(to_builtins, blocks)]
    with create(temporary) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode("utf-8"))
    temporary.replace(folder / JOURNAL)
    return (folder / JOURNAL).open("a", encoding="utf-8")


def _read_journal(folder: Path) -> tuple[dict[str, Any] | None, list[Block]]:
    """Header and blocks, up to the first truncated or damaged line; None without a journal."""
    try:
        header, *lines = read_regular(folder / JOURNAL).decode("utf-8").split("\n")
        entries = json.loads(header)
        if type(entries["blocks"]) is not int or entries["blocks"] < 0:
            return None, []
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None, []
    blocks = []
    with suppress(ValueError, RecursionError):
        for line in lines[:-1]:  # text after the last line end is not a complete line
            blocks.append(typed(json.loads(line), Block))
    return entries, blocks
