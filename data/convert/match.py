"""Finds the features of the images that captions name: by the same name, the name without extension, or its number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...errors import DataError
from .captions import Captioned

_EXTENSION = re.compile(r"\.(jpe?g|png|webp|bmp|gif|npy|npz)$", re.IGNORECASE)
# 391895, or COCO_val2014_000000391895
_NUMBER = re.compile(r"(?:.*_)?0*([0-9]+)")
_SHOWN = 3


class Names:
    """The features' names, to find one by what a captions file calls its image."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._exact = {name: number for number, name in enumerate(names)}
        self._stems, self._numbers = _unique(map(_stem, names)), _unique(map(_number, names))

    def find(self, image: Captioned) -> int | None:
        """The features of an image."""
        for name in (image.name, *image.others):
            for known, form in ((self._exact, str), (self._stems, _stem), (self._numbers, _number)):
                key = form(name)
                found = known.get(key) if key else None
                if found is not None:
                    return found
        return None

    def _by_index(self, images: Sequence[Captioned]) -> list[int | None]:
        """The features of images by Karpathy's imgid, if it names those of all."""
        found = [None if image.index is None else self._exact.get(image.index) for image in images]
        return found if None not in found else [None] * len(images)

    def matched(self, images: Sequence[Captioned], what: str, *, skip: bool) -> list[tuple[int, Captioned]]:
        """Images with their features. skip: leave out those without. Raises DataError, naming some, otherwise."""
        found = [self.find(image) for image in images]
        if all(number is None for number in found):
            found = self._by_index(images)
        missing = [image.name for image, number in zip(images, found, strict=True) if number is None]
        if len(missing) == len(images):
            raise DataError(
                f"no image of {what} has features: its images are named {some(missing)}, the features"
                f" {some(self._names)}; give the same names to both"
            )
        if missing and not skip:
            raise DataError(
                f"{len(missing):,} of {len(images):,} images of {what} have no features: {some(missing)}; extract"
                " theirs too, or leave them out: --skip-unmatched"
            )
        return [(number, image) for image, number in zip(images, found, strict=True) if number is not None]


def some(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    return ", ".join(f"'{name[:80]}'" for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")


def _unique(keys: Iterable[str]) -> dict[str, int | None]:
    """Position of each key; None where two share it."""
    result: dict[str, int | None] = {}
    for number, key in enumerate(keys):
        result[key] = None if key in result else number
    return result


def _stem(name: str) -> str:
    return _EXTENSION.sub("", name.rpartition("/")[2])


def _number(name: str) -> str:
    match = _NUMBER.fullmatch(_stem(name))
    return match[1] if match else ""
