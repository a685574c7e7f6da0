"""Bottom-up-attention's TSV files: a line per image, arrays as base64 (Anderson et al., CVPR 2018)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..._files import open_regular
from ..._progress import progress_bar
from ...errors import DataError
from .item import BOXES, COUNT, FEATURES, NAME, Item, field, item_of

# Bottom-up-attention's own columns, and those of LXMERT and its descendants.
_COLUMNS = {
    6: ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    10: (
        *("img_id", "img_h", "img_w", "objects_id", "objects_conf"),
        *("attrs_id", "attrs_conf", "num_boxes", "boxes", "features"),
    ),
}


class TsvSource:
    """One or several TSV files. A name that comes again is skipped: the published files repeat some images."""

    def __init__(self, paths: list[Path], progress: bool) -> None:
        self.names: list[str] = []
        self._at: list[tuple[int, int, int]] = []  # per image: file, byte offset, line
        self._paths, self._columns = paths, [()] * len(paths)  # type: list[Path], list[tuple[str, ...]]
        self._files = [open_regular(path) for path in paths]
        self._bytes = 0  # of a region's features
        counts: list[int] = []
        seen: set[str] = set()
        size = sum(path.stat().st_size for path in paths)
        with progress_bar(size, "reading TSV", "B", progress, unit_divisor=1024) as bar:
            for number, file in enumerate(self._files):
                offset = 0
                for line, content in enumerate(file, 1):
                    fields = self._fields(number, line, content)
                    name = str(field(fields, NAME) or "").strip() if fields else ""
                    if fields and name not in seen:
                        seen.add(name)
                        self.names.append(name)
                        self._at.append((number, offset, line))
                        counts.append(self._count(fields, number, line, content))
                    offset += len(content)
                    bar.update(len(content))
        if not counts:
            raise DataError(f"{paths[0]} holds no image; expected a line per image: {' '.join(_COLUMNS[6])}")
        self.regions = np.array(counts, np.int64)
        self.identity = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]

    def read(self, image: int) -> Item:
        number, offset, line = self._at[image]
        self._files[number].seek(offset)
        fields = self._fields(number, line, self._files[number].readline())
        return item_of(fields, self._place(number, line))

    def _place(self, number: int, line: int) -> str:
        return f"{self._paths[number]}, line {line}"

    def _fields(self, number: int, line: int, content: bytes) -> dict[str, Any]:
        """A line's fields by name; none for a line of column names."""
        values = content.rstrip(b"\r\n").split(b"\t")
        if line == 1:
            titles = tuple(value.decode("latin1").strip() for value in values)
            if field(dict.fromkeys(titles, 1), FEATURES) and field(dict.fromkeys(titles, 1), BOXES):
                self._columns[number] = titles
                return {}
            self._columns[number] = _COLUMNS.get(len(values), ())
        columns = self._columns[number]
        if not columns:
            raise DataError(
                f"{self._place(number, line)} has {len(values)} columns; expected {len(_COLUMNS[6])}:"
                f" {' '.join(_COLUMNS[6])}, the last two in base64. Write other tables as one .npz per image: {NPZ}"
            )
        if len(values) != len(columns):
            raise DataError(
                f"{self._place(number, line)} has {len(values)} columns of {len(columns)}; {_remedy(content)}"
            )
        text = {"features", "boxes", *FEATURES, *BOXES}
        return {
            name: value if name in text else value.decode("utf-8", "replace")
            for name, value in zip(columns, values, strict=True)
        }

    def _count(self, fields: dict[str, Any], number: int, line: int, content: bytes) -> int:
        count, stored = field(fields, COUNT), field(fields, FEATURES)
        if count is None or not str(count).strip().isdigit() or int(count) < 1 or not stored:
            raise DataError(
                f"{self._place(number, line)} has {str(count)[:20]!r} as its number of regions; expected the columns"
                f" {' '.join(self._columns[number])}"
            )
        # The size of the first line's regions is that of all. Decoding is left to `read`.
        size = len(stored.rstrip(b"=")) * 3 // 4
        self._bytes = self._bytes or size // int(count)
        if size != int(count) * self._bytes:
            raise DataError(
                f"{self._place(number, line)} has features of {size} bytes for {count} regions, expected {self._bytes}"
                f" bytes each, as before; {_remedy(content)}"
            )
        return int(count)


def _remedy(content: bytes) -> str:
    return "extract it again" if content.endswith(b"\n") else "the line is cut off: copy the file again"


NPZ = "numpy.savez('ID.npz', x=features, bbox=boxes, image_w=…, image_h=…)"
