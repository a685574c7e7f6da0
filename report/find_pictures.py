"""A page's pictures: found by item id, scaled down, and embedded in the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CaanError, DataError
from ..pictures.regions import read_picture

if TYPE_CHECKING:
    from PIL.Image import Image

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
SIDE = 224  # pixels of a thumbnail's longer side
_QUALITY = 80


@dataclass(frozen=True)
class Thumbnail:
    """A picture for a page, or its name and the reason it is missing."""

    name: str
    uri: str | None = None  # data:image/jpeg;base64,…
    reason: str = ""


class PictureFolder:
    """A folder of pictures, by default the current one; ids are file names in it."""

    def __init__(self, folder: Path | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise DataError(f"{folder} is not a folder; name another with --pictures DIR")
        self.folder = folder or Path()
        self._shown: dict[str, Thumbnail] = {}

    def path_of(self, name: str) -> Path | None:
        """The picture of an id, with or without its extension; None if there is none.

        Ids are untrusted: links and ".." that lead outside the folder are not followed.
        """
        for candidate in (name, *(name + extension for extension in EXTENSIONS)):
            path = self.folder / candidate
            try:
                if path.suffix.lower() in EXTENSIONS and path.is_file() and self._holds(path):
                    return path
            except (OSError, ValueError):  # not a possible file name: too long, or with a zero byte
                return None
        return None

    def picture(self, name: str) -> Image:
        """The picture of an id, its longer side at most 224 pixels.

        Raises DataError if it is missing or unreadable, MissingError without Pillow.
        """
        path = self.path_of(name)
        if path is None:
            raise DataError("no picture with this name")
        picture = read_picture(path)
        picture.thumbnail((SIDE, SIDE))
        return picture

    def thumbnail(self, name: str) -> Thumbnail:
        """As `picture`, for a page; a missing picture is replaced by the reason."""
        if name not in self._shown:
            try:
                self._shown[name] = Thumbnail(name, data_uri(self.picture(name)))
            except CaanError as error:
                self._shown[name] = Thumbnail(name, reason=str(error))
        return self._shown[name]

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder.resolve())


def data_uri(picture: Image) -> str:
    """A picture as a JPEG data URI."""
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
