"""Writing a gallery's folder block by block, so that a run that was killed can go on and ends with the same bytes.

A block's states are written, then a line of the journal says so. What lies behind the last line's block does not
count. An append's blocks wait in states.new.bin, and are put behind a copy of the gallery's states at the end. Only
gallery.json, which is replaced last, makes the blocks part of the gallery.
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
from msgspec.structs import asdict, replace
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
    STATES,
    part_of,
    read_description,
    write_description,
)
from .regular import check_regular, copy_bytes, create, keep_mode, reopen

NEW_STATES = "states.new.bin"  # of an append
JOURNAL, _NEW_JOURNAL = "journal.jsonl", "journal.jsonl.tmp"
_COPY = ".tmp"
_COPIES = {f"{name}{_COPY}" for name in (STATES, LENGTHS, IDS)}
_OURS = {DESCRIPTION, STATES, LENGTHS, IDS, JOURNAL, _NEW_JOURNAL, NEW_STATES, *_COPIES}


class Input(NamedTuple):
    """What a block is made from."""

    items: int
    rows: int
    crc32: int  # of all that its states depend on, the model aside


class GalleryWriter:
    """Appends blocks to the gallery `base` in a folder; a new gallery's `base` has none.

    Blocks that an earlier, interrupted run of the same job wrote are offered again: `keep` takes the next of them,
    `add` writes another in its place. `publish` ends the job. CaanWarning if the earlier run was another job: what it
    wrote is replaced. Raises OutputError for a folder with other files in it, or with links for files.

    What is appended waits in files of its own, and nothing that is published is written to: others may have it mapped.
    `alone`: a lock keeps other processes away. Without one an append's work lies in a folder that no other process
    uses, and does not outlive this one.
    """

    def __init__(self, folder: Path, base: Description, *, alone: bool = True) -> None:
        self._folder, self.base, self._alone = folder, base, alone
        _check_files(folder, is_new=not base.blocks)
        self._open = ExitStack()
        self._work = folder if alone or not base.blocks else self._open.enter_context(_own_folder(folder))
        self._path = self._work / (NEW_STATES if base.blocks else STATES)
        self._earlier, self._published = _earlier_run(self._work, base)
        self._blocks: list[Block] = []
        self._states: BinaryIO | None = None
        self._journal: TextIO | None = None

    def __enter__(self) -> GalleryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a full disk, closing fails with what is still buffered; the first error says it all.
        with suppress(OSError):
            self._open.close()
        if kind is not None:
            for name in _OURS if not (self._blocks or self._earlier or self.base.blocks) else _COPIES:
                (self._work / name).unlink(missing_ok=True)

    def is_published(self, inputs: Iterable[Input]) -> bool:
        """Whether the last append to this gallery was this very job, killed when all but its journal was done."""
        found = [Input(block.items, block.rows, block.crc32) for block in self._published]
        done = bool(found) and all(a == b for a, b in zip_longest(found, inputs))
        if found:
            self._published = ()
            self._end_work()
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
        file = self._states_file()
        file.write(content.data)
        file.flush()
        block = Block(made_from.items, made_from.rows, hashlib.sha256(content.data).hexdigest(), made_from.crc32)
        self._blocks.append(block)
        self._journal.write(json.dumps(asdict(block)) + "\n")
        self._journal.flush()

    def publish(self, lengths: NDArray[np.int64], ids: Sequence[str] | None) -> None:
        """Make the blocks part of the gallery: lengths (items,) and ids of what is new.

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
        blocks = (*base.blocks, *self._blocks)
        with publishing(self._folder, base, alone=self._alone):
            for copy in copies:
                copy.replace(self._folder / copy.name.removesuffix(_COPY))
            if ids is None:
                (self._folder / IDS).unlink(missing_ok=True)
            write_description(self._folder, replace(base, blocks=blocks, lengths=all_lengths, ids=all_ids))
        self._end_work()

    def _begin(self) -> TextIO:
        """Leave what comes after the blocks that are kept, and open a journal."""
        lost = self._earlier[len(self._blocks) :]
        if lost:
            _warn_of_another_job(self._folder, lost)
        self._states_file()
        if not self.base.blocks:  # of a gallery that was published here
            (self._work / DESCRIPTION).unlink(missing_ok=True)
        return self._open.enter_context(_new_journal(self._work, self.base, self._blocks))

    def _states_file(self) -> BinaryIO:
        """The new states, open behind the blocks that count."""
        if self._states is None:
            is_published = not self.base.blocks and (self._work / DESCRIPTION).exists()
            opened = reopen(self._path, self._size(), is_published=is_published) if self._blocks else create(self._path)
            self._states = self._open.enter_context(opened)
        return self._states

    def _extend(self, name: str, size: int, content: BinaryIO | bytes) -> Path:
        """A copy of the first `size` bytes of a published file, with this behind them."""
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
        for name in (NEW_STATES, _NEW_JOURNAL, JOURNAL):
            (self._work / name).unlink(missing_ok=True)

    def _size(self) -> int:
        """Bytes of the new blocks that count."""
        return sum(block.rows for block in self._blocks) * self.base.row_bytes

    def _hash(self, block: Block) -> str | None:
        try:
            with open_regular(self._path) as file:
                file.seek(self._size())
                return hashlib.sha256(file.read(block.rows * self.base.row_bytes)).hexdigest()
        except OSError:
            return None


@contextmanager
def publishing(folder: Path, base: Description, *, alone: bool) -> Iterator[None]:
    """Around replacing a gallery's files: raises OutputError unless it still is `base`. A new one is no concern.

    alone: a lock keeps other processes away; without one, they are kept away for as long as this takes.
    """
    with nullcontext() if alone else claimed(folder):
        if base.blocks and read_description(folder) != base:
            raise changed_meanwhile(folder)
        yield


def changed_meanwhile(folder: Path) -> OutputError:
    return OutputError(
        f"{folder} was changed by another process meanwhile, and nothing of this one was added or deleted; give the"
        " same command again"
    )


@contextmanager
def _own_folder(gallery: Path) -> Iterator[Path]:
    """A folder in a gallery for one process's work; those of processes that were killed are removed."""
    for left in gallery.glob(".append-*.tmp"):
        process, _, machine = left.name.removeprefix(".append-").rpartition("-")[0].partition("-")
        if not is_running(process, machine):
            shutil.rmtree(left, ignore_errors=True)
    prefix = f".append-{os.getpid()}-{platform.node()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=gallery) as folder:
        yield Path(folder)


def _check_files(folder: Path, *, is_new: bool) -> None:
    """Raise OutputError for links, and if something in the folder of a new gallery is not from an earlier run."""
    for path in sorted(folder.iterdir()):
        if path.name in _OURS:
            check_regular(path)
        elif is_new and not path.match(f".{DESCRIPTION}.*.tmp"):
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
    with create(temporary) as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines).encode("utf-8"))
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
    with suppress(ValueError, RecursionError):
        for line in lines[:-1]:  # what follows the last line end is not a whole line
            blocks.append(typed(json.loads(line), Block))
    return found, blocks
