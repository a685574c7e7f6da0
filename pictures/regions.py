"""Pictures and their regions: boxes as fractions x0, y0, x1, y1 of the picture, (0, 0) is the upper left."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..data.boxes import relative_boxes
from ..data.scan import ScanSplit, open_array, open_plain_array
from ..errors import DataError, needs

if TYPE_CHECKING:
    from PIL.Image import Image

# Pictures with more pixels are rejected before decoding; longer sides are scaled down, since a screen shows no more.
MAX_PIXELS, MAX_SIDE = 100_000_000, 2048
FORMATS = ("PNG", "JPEG", "WEBP")
_PIXEL_BOXES = "_ims_bbx.npy"
# Detectors clip boxes in pixels, so a fraction may exceed the picture by this much.
_TOLERANCE, _PIXEL_TOLERANCE = 1e-3, 2e-2
# Brightness of a region with zero weight: dark enough to recede, bright enough to recognise.
_DIMMED = 0.22
_OUTLINE = (255, 210, 0)


def grid_boxes(rows: int, columns: int) -> NDArray[np.float32]:
    """The cells of a regular grid, row by row: (rows · columns, 4) float32."""
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    cells = np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=-1)
    return cells.reshape(-1, 4).astype(np.float32)


def fitting_grid(rows: int, columns: int, regions: int, name: str = "a grid of") -> NDArray[np.float32]:
    """As `grid_boxes`, (R, 4), for features of `regions` regions.

    Raises DataError, calling the grid `name`, if the number of cells differs.
    """
    if rows * columns != regions:
        raise DataError(
            f"{name} {rows}x{columns} has {rows * columns} cells, the features have {regions} regions per image;"
            " name another --grid ROWSxCOLUMNS"
        )
    return grid_boxes(rows, columns)


def split_boxes(split: ScanSplit) -> NDArray[np.float32] | None:
    """The boxes of a data set's images, (images, R, 4): {split}_boxes.npy, else GSMN's {split}_ims_bbx.npy, else None.

    Raises DataError as `read_boxes`.
    """
    images, regions = split.features.shape[:2]
    for name in ("boxes", "ims_bbx"):
        if (path := split.folder / f"{split.split}_{name}.npy").is_file():
            return read_boxes(path, images, regions, split.lengths, split.rows)
    return None


def read_boxes(
    path: Path,
    images: int,
    regions: int,
    lengths: NDArray[np.integer] | None = None,
    rows: slice | NDArray[np.int64] = slice(None),
) -> NDArray[np.float32]:
    """The boxes of a file's images, (images, regions, 4) float32, in 0..1; zeros beyond an image's `lengths`.

    rows: of the images in a file that repeats them. The boxes of X_ims_bbx.npy are in pixels (GSMN, Liu et al., CVPR
    2020): X_ims_size.npy beside it has the pictures' sizes. Raises DataError if the file is not an `.npy` file of that
    shape, or the boxes are not fractions with x0 < x1, y0 < y1.
    """
    stored = open_array(path)
    if len(stored.shape) == 3 and len(stored) != images:
        stored = stored[rows]
    shape = (images, regions, 4)
    if stored.shape != shape or not np.issubdtype(stored.dtype, np.number):
        raise DataError(f"{path} holds {stored.shape}; the features need boxes {shape}: images, regions, x0 y0 x1 y1")
    valid = np.ones((images, regions), np.bool_)
    if lengths is not None:
        valid = np.arange(regions) < lengths[:, None]
    if not np.isfinite(stored[valid]).all():
        raise DataError(f"{path} holds NaN or infinity; boxes are fractions of the picture, 0 to 1")
    sizes = path.with_name(f"{path.name.removesuffix('_bbx.npy')}_size.npy")
    remedy = "divide pixels by the picture's width and height"
    if path.name.endswith(_PIXEL_BOXES) and sizes.is_file():
        boxes, tolerance = relative_boxes(stored, *read_sizes(sizes, images, rows)), _PIXEL_TOLERANCE
        remedy = f"look at {sizes.name}, which holds each picture's width, then its height"
    else:
        boxes, tolerance = np.array(stored, np.float32), _TOLERANCE
    boxes[~valid] = 0
    if boxes.max() > 1 + tolerance or boxes.min() < -tolerance:
        raise DataError(
            f"{path} holds {boxes.min():g} to {boxes.max():g}; boxes are fractions of the picture, 0 to 1: {remedy}"
        )
    wrong = np.argwhere((boxes[..., :2] >= boxes[..., 2:]).any(axis=-1) & valid)
    if len(wrong):
        image, region = wrong[0]
        raise DataError(
            f"{path}: region {region} of image {image} has no area: {boxes[image, region]}; expected x0 < x1 and"
            " y0 < y1 (not x, y, width, height)"
        )
    return boxes.clip(0, 1)


def read_sizes(
    path: Path, images: int, rows: slice | NDArray[np.int64] = slice(None)
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The pictures' widths and heights in pixels, each (images, 1, 1), from an `.npy` file.

    It holds (images, 2) numbers, width first, or GSMN's dicts of image_w and image_h, which are read as plain data:
    nothing in the file is executed. Raises DataError for anything else.
    """
    stored = open_plain_array(path)
    if isinstance(stored, list):
        try:
            sizes = np.array([[size["image_w"], size["image_h"]] for size in stored], np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} holds other objects than dicts of image_w and image_h") from error
    else:
        sizes = np.asarray(stored, np.float64) if stored.dtype.kind in "fiu" else np.empty(0)
    if sizes.ndim == 2 and len(sizes) != images:
        sizes = sizes[rows]
    if sizes.shape != (images, 2) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise DataError(f"{path} doesn't hold a width and a height above 0 for each of {images} images")
    return sizes[:, 0, None, None], sizes[:, 1, None, None]


def read_picture(path: Path) -> Image:
    """Read a PNG, JPEG or WebP picture as RGB, rotated by its EXIF orientation, its longer side at most 2048.

    The format is detected from the content, not the name. Raises DataError for other formats, damaged files, and more
    than 100 megapixels; MissingError without Pillow.
    """
    with needs("plot", "a picture"):
        from PIL import Image, ImageOps
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")  # reading a pipe or device might never end
        # Only these: Pillow supports dozens of formats and runs programs such as Ghostscript for some.
        with Image.open(path, formats=FORMATS) as file:
            width, height = file.size
            if width * height <= MAX_PIXELS:
                file.draft("RGB", (MAX_SIDE, MAX_SIDE))
                picture = ImageOps.exif_transpose(file).convert("RGB")
                picture.thumbnail((MAX_SIDE, MAX_SIDE))
                return picture
    except FileNotFoundError as error:
        raise DataError(f"no picture at {path}; name a PNG, JPEG or WebP file") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large a picture ({error}); make it smaller first") from error
    except Exception as error:  # a damaged file makes Pillow raise nearly any type
        raise DataError(f"{path} can't be read as a picture ({error}); save it as PNG or JPEG") from error
    raise DataError(f"{path} has {width} × {height} pixels, too many; make it smaller first")


def shade_regions(picture: Image, boxes: NDArray[np.floating], weights: NDArray[np.floating]) -> Image:
    """The picture with each region's brightness scaled by its weight, the strongest outlined.

    boxes (R, 4) fractions, weights (R,) ≥ 0 of any scale: the largest weight keeps the picture's brightness, zero
    leaves a fifth of it. Where boxes overlap the largest weight counts.
    """
    with needs("plot", "a picture"):
        from PIL import Image, ImageDraw
    corners = pixel_boxes(picture, boxes)
    light = np.zeros((picture.height, picture.width), np.float32)
    shares = np.asarray(weights, np.float32) / max(float(np.max(weights)), 1e-12)
    for (x0, y0, x1, y1), share in zip(corners, shares, strict=True):
        part = light[y0:y1, x0:x1]
        np.maximum(part, share, out=part)
    bright = np.asarray(picture, np.float32) * (_DIMMED + (1 - _DIMMED) * light[..., None])
    shaded = Image.fromarray(bright.round().astype(np.uint8))
    x0, y0, x1, y1 = corners[int(np.argmax(shares))]
    width = max(2, round(min(picture.size) / 100))
    ImageDraw.Draw(shaded).rectangle((x0, y0, x1 - 1, y1 - 1), outline=_OUTLINE, width=width)
    return shaded


def pixel_boxes(picture: Image, boxes: NDArray[np.floating]) -> list[tuple[int, int, int, int]]:
    """Boxes (R, 4) as integer pixels x0, y0, x1, y1 of a picture, at least one pixel each."""
    scale = np.array([picture.width, picture.height] * 2)
    result = []
    for x0, y0, x1, y1 in (np.asarray(boxes, np.float64) * scale).round().astype(int).tolist():
        left, top = min(x0, picture.width - 1), min(y0, picture.height - 1)
        result.append((left, top, max(x1, left + 1), max(y1, top + 1)))
    return result
