"""A gallery, written partly or completely."""

import numpy as np
import pytest

from caan.runtime import Retriever
from caan.runtime.index import Images, IndexOptions, index_items

IMAGES, BLOCK = 600, 128  # five blocks


class Counted:
    """A backend that counts the images it encodes, and may fail at one."""

    def __init__(self, backend, fails_at=None, error=KeyboardInterrupt):
        self._backend, self.images, self._fails_at, self._error = backend, 0, fails_at, error

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def encode_images(self, features):
        self.images += len(features)
        if self._fails_at is not None and self.images > self._fails_at:
            raise self._error
        return self._backend.encode_images(features)


@pytest.fixture(scope="module")
def retriever(tiny_folder):
    return Retriever.open(tiny_folder / "model.caan")


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(0).standard_normal((IMAGES, 5, 12)).astype(np.float32)


@pytest.fixture
def write(retriever, tiny_folder, tmp_path):
    """write(features, ids, **options): write the gallery tmp_path/gallery; backend=…: with another backend."""

    def call(features, ids=None, target="gallery", backend=None, lengths=None, **options):
        made_by = retriever if backend is None else Retriever(backend)
        bundle = tiny_folder / "model.caan"
        source = Images(made_by, features, lengths)
        return index_items(made_by, bundle, source, tmp_path / target, ids, IndexOptions(**options))

    return call


@pytest.fixture
def half_done(write, retriever, features, tmp_path):
    """A run interrupted in the fourth of five blocks."""
    with pytest.raises(KeyboardInterrupt):
        write(features, backend=Counted(retriever.backend, 3 * BLOCK + 10))
    assert not (tmp_path / "gallery").exists()
    return tmp_path / "gallery.partial"


def names(number):
    return [f"{n}.jpg" for n in range(number)]


def scores_of(retriever, gallery):
    return retriever.score_matrix(gallery, ["w1 w2", "w3"])
