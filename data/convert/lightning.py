"""LMDB databases of features, as ViLBERT's and MMF's: image id → pickled fields, or an `.npz` file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..._progress import progress_bar
from ...errors import DataError, needs
from ..plain_pickle import load_plain
from .item import NAME, Item, field, item_of

# Keys of other things than images.
_OTHERS = (b"keys", b"__keys__", b"__len__", b"length", b"num_samples", b"num-samples", b"image_ids")


class LmdbSource:
    """An LMDB folder or file. Pickles are read as plain data: nothing in them is executed."""

    def __init__(self, path: Path, progress: bool) -> None:
        with needs("data", f"reading {path.name}"):
            import lmdb
        try:
            environment = lmdb.open(
                str(path), subdir=path.is_dir(), readonly=True, lock=False, create=False, readahead=False, max_readers=1
            )
        except lmdb.Error as error:
            raise DataError(f"{path} can't be read as LMDB ({error}); it is damaged: copy it again") from error
        file = path / "data.mdb" if path.is_dir() else path
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if file.stat().st_size < needed:  # reading past its end would kill the process
            raise DataError(f"{path} is truncated: {file.stat().st_size} bytes of {needed}; copy it again")
        self._path, self._transaction, self._error = path, environment.begin(), lmdb.Error
        self._keys: list[bytes] = []
        self.names: list[str] = []
        counts = []
        with progress_bar(self._transaction.stat()["entries"], "reading sizes", "image", progress) as bar:
            for key, value in self._entries():
                if key not in _OTHERS:
                    fields = self._fields(key, value)
                    self._keys.append(key)
                    name = field(fields, NAME)
                    self.names.append(_text(key if name is None else name))
                    counts.append(len(item_of(fields, self._place(key)).features))
                bar.update()
        if not counts:
            raise DataError(f"{path} holds no images")
        self.regions = np.array(counts, np.int64)
        self.identity: list[Any] = [str(path.resolve()), file.stat().st_size, file.stat().st_mtime_ns]

    def read(self, image: int) -> Item:
        key = self._keys[image]
        return item_of(self._fields(key, bytes(self._transaction.get(key) or b"")), self._place(key))

    def _entries(self) -> Iterator[tuple[bytes, bytes]]:
        try:
            for key, value in self._transaction.cursor():
                yield bytes(key), bytes(value)
        except self._error as error:
            raise DataError(f"{self._path} can't be read as LMDB ({error}); it is damaged: copy it again") from error

    def _place(self, key: bytes) -> str:
        return f"{self._path}, key {_text(key)[:80]!r}"

    def _fields(self, key: bytes, value: bytes) -> dict[str, Any]:
        place = self._place(key)
        if value.startswith(b"PK\x03\x04"):
            try:
                with np.load(io.BytesIO(value), allow_pickle=False) as archive:
                    return {name: archive[name] for name in archive.files if archive[name].dtype.kind != "O"}
            except Exception as error:
                raise DataError(f"{place} can't be read as .npz ({type(error).__name__}); it is damaged") from error
        if not value.startswith((b"\x80", b"(", b"}", b"c")):
            raise DataError(
                f"{place} holds neither a pickle nor an .npz file (first bytes {value[:4]!r}); write"
                " numpy.savez('ID.npz', x=features, bbox=boxes, image_w=…, image_h=…) for each key"
            )
        loaded = load_plain(value, place)
        if isinstance(loaded, np.ndarray):
            return {"features": loaded}
        if not isinstance(loaded, dict):
            raise DataError(f"{place} holds a {type(loaded).__name__}; expected a dict with features and boxes")
        return {_text(name): item for name, item in loaded.items() if item is not None}


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
