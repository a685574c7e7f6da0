"""Fixtures shared by several rooms' tests. Slow ones are made once per run, by the first worker that needs them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Two processes run the tests, perhaps on two cores: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# GPU tests also run on machines with few packages (make gpu-record): packages that may be missing are imported where
# they are used.
import numpy as np
import pytest
import torch

from caan.bundle import GRAPHS, graph_file, write_manifest
from caan.cli import main
from caan.data.vocabulary import SPECIAL_TOKENS, Vocabulary
from caan.model.caan import CAAN, CaanConfig
from caan.model.checkpoint import load_checkpoint, save_checkpoint

with suppress(ImportError):
    from hypothesis import HealthCheck, settings

    settings.register_profile("caan", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    settings.load_profile("caan")

_DAY = 24 * 3600
SHARED = Path(__file__).parents[1].parent / "shared"
TINY = CaanConfig(
    region_dim=12, embed_dim=10, word_dim=6, attention_dim=7, vocab_size=24, num_regions=5, attention_scale=4.0
)
WORDS = [f"w{number}" for number in range(20)]


@dataclass(frozen=True)
class Outcome:
    """A command's exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class DemoRun:
    data: Path  # the demo world, a SCAN data set
    checkpoint: Path  # a CAAN trained on it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: begun last, one would keep a core alone at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> None:
    """No test reads or writes the user's cache."""
    os.environ["CAAN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@cache
def kept_folder() -> Path:
    """The folder of fixtures kept between runs, since training and export take seconds; outdated ones are removed.

    Its name is a hash of everything they depend on: sources, these fixtures, and package versions.
    """
    root = Path(__file__).parents[1]
    sources = [root / "tests" / "conftest.py", *root.glob("*.py")]
    sources += [path for room in ("_files", "data", "export", "model") for path in (root / room).rglob("*.py")]
    digest = hashlib.sha256(platform.python_version().encode())
    for package in ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "onnxruntime", "numpy"):
        with suppress(PackageNotFoundError):
            digest.update(version(package).encode())
    for path in sorted(sources):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    kept = root / ".pytest_cache" / "made-once"
    folder = kept / digest.hexdigest()[:16]
    for old in kept.glob("*"):
        if old != folder and time.time() - old.stat().st_mtime > _DAY:
            shutil.rmtree(old, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """make_once(name, make): a folder filled by `make(folder)`, once for all of pytest-xdist's workers.

    kept=True: kept between runs, until a source file of the rooms that make it changes.
    """
    base = tmp_path_factory.getbasetemp()
    base_root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"
    from filelock import FileLock

    def once(name: str, make: Callable[[Path], None], *, kept: bool = False) -> Path:
        root = kept_folder() if kept else base_root
        root.mkdir(parents=True, exist_ok=True)
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
        export_checkpoint = exporter()
        torch.manual_seed(7)
        save_checkpoint(folder / "model.pt", CAAN(TINY), vocabulary, {"rsum": 1.0})
        export_checkpoint(load_checkpoint(folder / "model.pt"), folder / "model.pt", folder / "model.caan")
        write_tiny_data(folder / "data")

    return make_once("tiny", make, kept=True)


@pytest.fixture
def traced(tiny_folder, monkeypatch) -> None:
    """Exports of the tiny checkpoint take the graphs of its bundle."""
    take_graphs_of(tiny_folder / "model.caan", monkeypatch)


@pytest.fixture
def tiny_bundle(tiny_folder, tmp_path) -> Path:
    """A copy of the tiny bundle, which a test may damage."""
    return Path(shutil.copytree(tiny_folder / "model.caan", tmp_path / "model.caan"))


@pytest.fixture
def tiny_data(tmp_path) -> Path:
    """A SCAN data set for the tiny model, which a test may damage: 6 images, 30 captions."""
    write_tiny_data(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def run(capfd) -> Callable[..., Outcome]:
    """run(*arguments): the command `caan` with these arguments, in this process."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(stop.value.code, out, err)

    return call


@pytest.fixture
def refused(run, tmp_path, monkeypatch) -> Callable[..., str]:
    """refused(*arguments, says=[text, ...], code=2): run in tmp_path, the command exits with this code.

    Its message is one or two lines that hold every text of `says`; it prints no result and leaves every file and
    folder under tmp_path as it was. Returns the message.
    """
    monkeypatch.chdir(tmp_path)

    def check(*arguments: object, says: list[str], code: int = 2) -> str:
        before = tree(tmp_path)
        outcome = run(*arguments)
        assert outcome.code == code, outcome
        assert outcome.out == ""
        assert "Traceback" not in outcome.err
        message = re.split(r"^Error: ", outcome.err, flags=re.MULTILINE)[-1].strip()
        assert len(message.splitlines()) <= 2
        assert [text for text in says if text not in message] == [], message
        assert tree(tmp_path) == before
        return message

    return check


@pytest.fixture
def mounted(tmp_path) -> Callable[..., Path]:
    """mounted(*options): a folder of tmp_path with a file system mounted on it, unmounted afterwards."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs Linux and root, to mount a file system")
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(*options):
        done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine doesn't let us mount: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], capture_output=True)


@pytest.fixture
def small_disk(mounted) -> Path:
    """A disk of 8 KiB, smaller than any result."""
    return mounted("-o", "size=8k")


def exporter() -> Callable[..., Any]:
    """`export_checkpoint`, imported late: it needs packages that a machine for running bundles may lack."""
    pytest.importorskip("onnxscript", reason="makes a bundle: pip install '.[export]'")
    from caan.export.bundle_from_checkpoint import export_checkpoint

    return export_checkpoint


def scan_parts_of(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """A model's parameters as SCAN-family code saves them: image, text and scorer state dicts."""
    image, text, scorer = (
        {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        for prefix in ("image_encoder.", "text_encoder.", "scorer.")
    )
    names = {"embedding": "embed", "gru": "rnn"}
    text = {
        f"{names[layer]}.{rest}": text[f"{layer}.{rest}"] for layer, _, rest in (key.partition(".") for key in text)
    }
    return [image, text, scorer]


def take_graphs_of(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of a checkpoint take the graphs of its bundle: tracing them again would take 10 seconds."""
    import onnx

    from caan.export import bundle_from_checkpoint
    from caan.export.graphs import graph_specs

    def graphs(model):
        for spec in graph_specs(model):
            yield spec, onnx.load(bundle / graph_file(spec.name, "fp32"))

    monkeypatch.setattr(bundle_from_checkpoint, "export_graphs", graphs)


def add_half_precision(bundle: Path) -> None:
    """Give a bundle FP16 graphs, ungated."""
    import onnx

    from caan.export.fp16 import to_fp16

    manifest = json.loads((bundle / "manifest.json").read_text())
    for graph in GRAPHS:
        onnx.save(to_fp16(onnx.load(bundle / graph_file(graph, "fp32"))), bundle / graph_file(graph, "fp16"))
    manifest["precisions"]["fp16"] = {"checks": []}
    write_manifest(bundle, manifest)


def tree(folder: Path) -> dict[str, Any]:
    """Everything under a folder: a link's target, a file's content, None for a folder."""

    def content(path: Path) -> Any:
        if path.is_symlink():
            return path.readlink()
        return path.read_bytes() if path.is_file() else None

    return {path.relative_to(folder).as_posix(): content(path) for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def demo_run(make_once) -> DemoRun:
    """The demo world and the CAAN that `caan train` trains on it with its defaults."""
    from caan.data.demo.world import write_world
    from caan.model.train import train

    def make(folder: Path) -> None:
        write_world(folder / "world")
        train(folder / "world", folder / "model.pt")

    folder = make_once("demo", make, kept=True)
    return DemoRun(folder / "world", folder / "model.pt")


@dataclass(frozen=True)
class Reader:
    folder: Path  # a data set, its checkpoint, and the output files of README's examples
    printed: list[str]  # output of each example


@pytest.fixture(scope="session")
def reader(make_once) -> Reader:
    """A reader who has run README's examples."""
    from tests.pages import README, prepare, run_examples

    def make(folder: Path) -> None:
        prepare(folder)
        printed = run_examples(README, folder)
        (folder / "printed.json").write_text(json.dumps(printed))

    folder = make_once("reader", make)
    return Reader(folder, json.loads((folder / "printed.json").read_text()))


@pytest.fixture(scope="session")
def flickr8k() -> Path:
    folder = SHARED / "data" / "flickr8k"
    if not folder.is_dir():
        pytest.skip("needs the Flickr8k features, which are for research only and not part of the project")
    return folder


@pytest.fixture(scope="session")
def flickr8k_bundle(make_once, flickr8k) -> Path:
    """The bundle of the CAAN trained on Flickr8k."""
    source = flickr8k / "model.pt"

    def make(folder: Path) -> None:
        export_checkpoint = exporter()
        export_checkpoint(load_checkpoint(source), source, folder / "model.caan")

    return make_once("flickr8k", make, kept=True) / "model.caan"


def write_tiny_data(folder: Path, images: int = 6, split: str = "test", seed: int = 0) -> None:
    """A random SCAN data set that fits the tiny model, with its vocabulary."""
    generator = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    features = generator.standard_normal((images, TINY.num_regions, TINY.region_dim)).astype(np.float32)
    np.save(folder / f"{split}_ims.npy", features)
    captions = [" ".join(generator.choice(WORDS, generator.integers(1, 9))) for _ in range(5 * images)]
    (folder / f"{split}_caps.txt").write_text("".join(f"{caption}\n" for caption in captions))
