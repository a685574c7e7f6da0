"""What a report shows of its data set: captions, pictures and region boxes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data.scan import ScanSplit, open_split
from ..pictures.regions import fitting_grid, split_boxes
from .find_pictures import PictureFolder, Thumbnail


@dataclass(frozen=True)
class Source:
    """A data set's split, with pictures and region boxes if available."""

    split: ScanSplit
    pictures: PictureFolder | None
    boxes: NDArray[np.float32] | None  # (images, R, 4) fractions x0, y0, x1, y1

    def name_of(self, image: int) -> str:
        """An image's id, or "image 17"."""
        return self.split.ids[image] if self.split.ids else f"image {image}"

    def thumbnail(self, image: int) -> Thumbnail:
        """The picture of an image, or its name."""
        name = self.name_of(image)
        if self.pictures is None or self.split.ids is None:
            return Thumbnail(name)
        return self.pictures.thumbnail(name)

    def is_relevant(self, image: int, caption: int) -> bool:
        """Whether the caption was written for the image."""
        return bool(self.split.image_of_caption[caption] == image)

    def missing(self) -> list[str]:
        """What the page can't show, and how to fix it."""
        folder, split = self.split.folder, self.split.split
        notes = []
        if self.split.ids is None:
            notes.append(f"Pictures are found by image id, and {folder} has no {split}_ids.txt.")
        elif self.pictures is None:
            notes.append(f"{folder / 'thumbnails'} is missing; name the pictures’ folder with --pictures DIR.")
        if self.boxes is None:
            notes.append(
                f"Pictures are not shaded: the regions' boxes are unknown. Put boxes into {split}_boxes.npy in"
                f" {folder}, or, for features of a regular grid, add --grid ROWSxCOLUMNS."
            )
        return notes


def open_source(data: Path, split: str, pictures: Path | None, grid: tuple[int, int] | None) -> Source:
    """Open the data set of a report.

    pictures: by default DATA/thumbnails, if it exists; grid: rows and columns of the features' cells, by default the
    boxes in DATA/{split}_boxes.npy, if it exists. Raises DataError for an unusable data set, folder or boxes, or a grid
    whose number of cells differs from the features' regions.
    """
    opened = open_split(data, split)
    images, regions = opened.features.shape[:2]
    default = data / "thumbnails"
    folder = PictureFolder(pictures or default) if pictures or default.is_dir() else None
    if grid is None:
        return Source(opened, folder, split_boxes(opened))
    return Source(opened, folder, np.broadcast_to(fitting_grid(*grid, regions), (images, regions, 4)))
