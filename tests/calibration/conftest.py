"""Fixtures of the calibration tests."""

from pathlib import Path

import numpy as np
import pytest

from caan.bundle import Bundle, open_bundle
from caan.data.scan import ScanSplit


@pytest.fixture(scope="session")
def bundle(tiny_folder) -> Bundle:
    return open_bundle(tiny_folder / "model.caan")


@pytest.fixture(scope="session")
def make_split():
    """make_split(images=…): a random data set in memory that fits the tiny model."""

    def make(images=100, captions_per_image=5, regions=5, region_dim=12, seed=0, longest=8) -> ScanSplit:
        generator = np.random.default_rng(seed)
        features = generator.standard_normal((images, regions, region_dim)).astype(np.float32)
        lengths = generator.integers(1, longest + 1, images * captions_per_image)
        captions = [" ".join(f"w{word}" for word in generator.integers(0, 20, length)) for length in lengths]
        truth = np.arange(len(captions), dtype=np.int64) // captions_per_image
        return ScanSplit(Path("data"), "train", features, captions, truth, [f"photo{n}" for n in range(images)])

    return make


@pytest.fixture
def cache_folder(tmp_path, monkeypatch) -> Path:
    """An empty cache for the test."""
    monkeypatch.setenv("CAAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "calibration"
