"""The demo world: drawn scenes with true captions, region boxes and region features, deterministic per seed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..._files import atomic_file
from ...errors import MissingError, install
from ..scan import write_split
from ..vocabulary import Vocabulary
from .captions import write_captions
from .painting import paint
from .regions import region_boxes, region_features
from .scenes import Scene, sample_scene

if TYPE_CHECKING:
    from PIL.Image import Image

TRAIN_SCENES = 1600


@dataclass(frozen=True)
class DemoSplit:
    """N scenes: region features and boxes, captions, pictures, and the scenes themselves."""

    features: NDArray[np.float32]  # (N, R, F)
    captions: list[list[str]]  # N × 5, lower case, tokens separated by spaces
    boxes: NDArray[np.float32]  # (N, R, 4) x0, y0, x1, y1 in 0..1
    images: list[Image]  # N, RGB
    ids: list[str]  # N, "scene-000123"
    scenes: list[Scene]  # N


def make_split(count: int, seed: int = 0, first: int = 0) -> DemoSplit:
    """The scenes `first` … `first + count - 1` of the world `seed`.

    A scene depends only on the seed and its number. Raises MissingError without Pillow.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingError(f"the demo world needs the package 'pillow'; {install('demo')}")
    features, captions, boxes, images, ids, scenes = [], [], [], [], [], []
    for number in range(first, first + count):
        rng = Random(f"caan demo world {seed}, scene {number}")
        scene = sample_scene(rng)
        image, objects = paint(scene)
        scenes.append(scene)
        images.append(image)
        captions.append(write_captions(scene, rng))
        boxes.append(region_boxes(objects, rng))
        features.append(region_features(image, boxes[-1]))
        ids.append(f"scene-{number:06d}")
    return DemoSplit(np.stack(features), captions, np.stack(boxes), images, ids, scenes)


def write_world(folder: Path, seed: int = 0, train: int = TRAIN_SCENES, dev: int = 200, test: int = 200) -> None:
    """Write the splits train, dev and test of a world as a data set.

    Per split the files of `caan.data.scan` and `{split}_boxes.npy`, (N, R, 4) float32; the vocabulary of the training
    captions; `thumbnails/{id}.png` for dev and test. Raises OutputError if the folder can't be written.
    """
    first = 0
    for split, count in (("train", train), ("dev", dev), ("test", test)):
        content = make_split(count, seed, first)
        first += count
        write_split(folder, split, content.features, content.captions, content.ids)
        if split == "train":
            Vocabulary.build(caption for group in content.captions for caption in group).save(folder / "vocab.json")
        with atomic_file(folder / f"{split}_boxes.npy") as temporary, temporary.open("wb") as file:
            np.save(file, content.boxes)
        if split != "train":
            for name, image in zip(content.ids, content.images, strict=True):
                with atomic_file(folder / "thumbnails" / f"{name}.png") as temporary:
                    image.save(temporary, format="PNG")
