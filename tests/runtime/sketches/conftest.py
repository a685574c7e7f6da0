"""The tiny bundle with a sketch, and galleries made with it."""

import shutil

import numpy as np
import pytest

from caan.data.scan import open_split
from caan.export.sketch_from_data import SketchOptions, sketch_bundle
from caan.runtime import Gallery, Retriever
from tests.conftest import write_tiny_data

IMAGES = 300


@pytest.fixture(scope="session")
def sketched_folder(make_once, tiny_folder):
    """A folder with the tiny bundle `model.caan`, which has a sketch, and the `data` it was made from."""

    def make(folder):
        shutil.copytree(tiny_folder / "model.caan", folder / "model.caan")
        write_tiny_data(folder / "data", images=120, split="train")
        write_tiny_data(folder / "data", images=40, split="dev", seed=1)
        splits = open_split(folder / "data", "train"), open_split(folder / "data", "dev")
        sketch_bundle(folder / "model.caan", *splits, SketchOptions(columns=16, calibration=4))

    return make_once("sketched", make)


@pytest.fixture(scope="session")
def retriever(sketched_folder):
    return Retriever.open(sketched_folder / "model.caan")


@pytest.fixture(scope="session")
def features():
    return np.random.default_rng(5).standard_normal((IMAGES, 5, 12)).astype(np.float32)


@pytest.fixture(scope="session")
def captions():
    generator = np.random.default_rng(6)
    return [[f"w{n}" for n in generator.integers(0, 20, generator.integers(1, 8))] for _ in range(260)]


@pytest.fixture(scope="session")
def galleries(retriever, features, captions):
    """Kind → a gallery in memory, with sketches and measured recall."""
    made = {"image": retriever.encode_images(features), "text": retriever.encode_captions(captions)}
    return {kind: retriever.sketch(gallery) for kind, gallery in made.items()}


@pytest.fixture
def photos(retriever, features, tmp_path) -> Gallery:
    return Gallery.create(tmp_path / "photos", retriever, features)
