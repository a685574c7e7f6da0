"""Fixtures that several rooms' tests share. What takes seconds is made once per run, whichever worker comes first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, settings

from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.export.to_bundle import export_checkpoint
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import load_checkpoint, save_checkpoint

settings.register_profile("caan", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("caan")

SHARED = Path(__file__).parents[1].parent / "shared"
TINY = CaanConfig(
    region_dim=12, embed_dim=10, word_dim=6, attention_dim=7, vocab_size=24, num_regions=5, attention_scale=4.0
)
WORDS = [f"w{number}" for number in range(20)]


@dataclass(frozen=True)
class DemoRun:
    data: Path  # the demo world, a SCAN data set
    checkpoint: Path  # a CAAN trained on it


@pytest.fixture(scope="session")
def make_once(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str
) -> Callable[[str, Callable[[Path], None]], Path]:
    """make_once(name, make): the folder that `make(folder)` filled, made once for all of pytest-xdist's workers."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "made-once"
    root.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], None]) -> Path:
        with FileLock(root / f"{name}.lock"):
            folder = root / name
            if not folder.is_dir():
                partial = root / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                make(partial)
                partial.rename(folder)
            return folder

    return once


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary({word: number for number, word in enumerate([*SPECIAL_TOKENS, *WORDS])})


@pytest.fixture(scope="session")
def tiny_folder(make_once, vocabulary) -> Path:
    """A folder with an untrained tiny CAAN: `model.pt`, its bundle `model.caan`, and `data/`, a SCAN data set."""

    def make(folder: Path) -> None:
        torch.manual_seed(7)
        save_checkpoint(folder / "model.pt", CAAN(TINY), vocabulary, {"rsum": 1.0})
        export_checkpoint(load_checkpoint(folder / "model.pt"), folder / "model.pt", folder / "model.caan")
        write_tiny_data(folder / "data")

    return make_once("tiny", make)


@pytest.fixture
def tiny_bundle(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan"))


@pytest.fixture(scope="session")
def demo_run(make_once) -> DemoRun:
    """The demo world and the CAAN that `caan train` makes of it with its defaults."""
    from caan.data.demo.world import write_world
    from caan.model.train import train

    def make(folder: Path) -> None:
        write_world(folder / "world")
        train(folder / "world", folder / "model.pt")

    folder = make_once("demo", make)
    return DemoRun(folder / "world", folder / "model.pt")


@pytest.fixture
def flickr8k() -> Path:
    folder = SHARED / "data" / "flickr8k"
    if not folder.is_dir():
        pytest.skip("needs the Flickr8k features, which are for research only and not part of the project")
    return folder


def write_tiny_data(folder: Path, images: int = 6, split: str = "test", seed: int = 0) -> None:
    """A random SCAN data set that fits the tiny model, with its vocabulary."""
    generator = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    features = generator.standard_normal((images, TINY.num_regions, TINY.region_dim)).astype(np.float32)
    np.save(folder / f"{split}_ims.npy", features)
    captions = [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(5 * images)]
    (folder / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
