"""The demo world: drawn scenes with true captions, region boxes and region features, deterministic per seed."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

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

# The scenes of `caan demo`, in this order; larger data sets begin after them.
TRAIN_SCENES, DEV_SCENES, TEST_SCENES = 1600, 200, 200


@dataclass(frozen=True)
class DemoSplit:
    """N scenes: region features and boxes, captions, pictures, and the scenes themselves."""

    features: NDArray[np.float32]  # (N, R, F)
    captions: list[list[str]]  # N × 5, lower case, tokens separated by spaces
    boxes: NDArray[np.float32]  # (N, R, 4) x0, y0, x1, y1 in 0..1
    images: list[Image]  # N, RGB
    ids: list[str]  # N, "scene-000123"
    scenes: list[Scene]  # N


class DrawnScene(NamedTuple):
    """One scene, as `DemoSplit` holds many."""

    features: NDArray[np.float32]  # (R, F)
    captions: list[str]  # 5
    boxes: NDArray[np.float32]  # (R, 4)
    image: Image
    scene: Scene


def make_split(count: int, seed: int = 0, first: int = 0) -> DemoSplit:
    """The scenes `first` … `first + count - 1` of the world `seed`.

    A scene depends only on the seed and its number. Raises MissingError without Pillow.
    """
    check_can_draw()
    drawn = [draw_scene(number, seed) for number in range(first, first + count)]
    return DemoSplit(
        np.stack([one.features for one in drawn]),
        [one.captions for one in drawn],
        np.stack([one.boxes for one in drawn]),
        [one.image for one in drawn],
        [scene_name(number) for number in range(first, first + count)],
        [one.scene for one in drawn],
    )


def draw_scene(number: int, seed: int = 0) -> DrawnScene:
    """One scene of the world `seed`: a scene depends only on the two numbers."""
    scene, rng = _sampled(number, seed)
    image, objects = paint(scene)
    captions = write_captions(scene, rng)
    boxes = region_boxes(objects, rng)
    return DrawnScene(region_features(image, boxes), captions, boxes, image, scene)


def scene_name(number: int) -> str:
    """The id of a scene: "scene-000123"."""
    return f"scene-{number:06d}"


def world_vocabulary(seed: int = 0, train: int = TRAIN_SCENES) -> Vocabulary:
    """The vocabulary of the world's training captions, of the scenes 0 … train - 1; nothing is painted."""
    return Vocabulary.build(caption for number in range(train) for caption in write_captions(*_sampled(number, seed)))


def check_can_draw() -> None:
    """Raise MissingError without Pillow."""
    if importlib.util.find_spec("PIL") is None:
        raise MissingError(f"the demo world needs the package 'pillow'; {install('demo')}")


def write_world(
    folder: Path, seed: int = 0, train: int = TRAIN_SCENES, dev: int = DEV_SCENES, test: int = TEST_SCENES
) -> None:
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


def _sampled(number: int, seed: int) -> tuple[Scene, Random]:
    """A scene's content, and its random numbers from there on."""
    rng = Random(f"caan demo world {seed}, scene {number}")
    return sample_scene(rng), rng
