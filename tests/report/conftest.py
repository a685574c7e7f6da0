"""A synthetic bench run with every kind of row; pages, and a browser's view of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from caan.bench.rows import Row
from caan.bench.run import BenchResult
from caan.bench.worker import RowSpec
from caan.data.scan import open_split
from caan.metrics import parity, retrieval_metrics

EVIL = "<script>console.error('ran')</script> \"><img src=http://example.invalid/x onerror=alert(1)> w1 & w2"


@dataclass
class Page(HTMLParser):
    """A page's HTML: its elements with their attributes, and its text."""

    html: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.style = False
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        self.style = tag == "style"

    def handle_endtag(self, tag):
        self.style = False

    def handle_data(self, data):
        if not self.style:
            self.words += f" {' '.join(data.split())} " if data.strip() else ""

    @property
    def text(self) -> str:
        return " ".join(self.words.split())

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


def check_self_contained(page: Page) -> None:
    """No scripts, no external resources, and no event attributes."""
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in page.attributes("src"))
    assert page.attributes("href") == [] and page.attributes("srcset") == []
    assert "url(" not in page.html and "@import" not in page.html


@pytest.fixture
def data(tiny_data) -> Path:
    """The tiny data set, with a malicious caption and ids, and pictures for all images but the last."""
    from PIL import Image

    captions = (tiny_data / "test_caps.txt").read_text().splitlines()
    captions[3] = EVIL
    (tiny_data / "test_caps.txt").write_text("\n".join(captions) + "\n")
    ids = ["plain", "with space", "<b>bold<b>.png", "ünï", "quote'\"", "no picture <i>"]
    (tiny_data / "test_ids.txt").write_text("\n".join(ids) + "\n")
    (tiny_data / "thumbnails").mkdir()
    for number, name in enumerate(ids[:-1]):
        file = tiny_data / "thumbnails" / (name if name.endswith(".png") else f"{name}.png")
        Image.new("RGB", (600, 300), (40 * number, 90, 200)).save(file)
    boxes = np.tile(np.array([0.1, 0.1, 0.6, 0.7], np.float32), (6, 5, 1))
    np.save(tiny_data / "test_boxes.npy", boxes)
    return tiny_data


@pytest.fixture
def result(data) -> BenchResult:
    """PyTorch, a nearly equal row, one that fails its gate, one for speed only, one that did not run."""
    truth = open_split(data).image_of_caption
    generator = np.random.default_rng(1)
    reference = generator.standard_normal((6, 30)).astype(np.float32)
    near = reference + generator.uniform(-1e-6, 1e-6, reference.shape).astype(np.float32)
    far = reference + generator.standard_normal(reference.shape).astype(np.float32)
    rows = [
        _row("pytorch, research form", "torch", None, 100.0, research_form=True),
        _row("pytorch, precomputed", "torch", reference, 1000.0),
        _row("onnxruntime", "onnxruntime", near, 2500.0),
        _row("onnxruntime", "onnxruntime", far, 2000.0, precision="int8"),
        Row(RowSpec("tensorrt", "tensorrt", Path(), "fp16", "cuda"), reason="no <GPU> here"),
    ]
    for row in rows:
        if row.scores is not None:
            row.metrics, row.parity = retrieval_metrics(row.scores, truth), parity(row.scores, reference, truth)
    return BenchResult("data <test>, 6 images × 30 captions", rows)


def _row(label: str, backend: str, scores: np.ndarray | None, speed: float, **options: object) -> Row:
    row = Row(RowSpec(label, backend, Path(), **options), scores=scores, pairs_per_second=speed, peak_bytes=1 << 30)
    # The machine is half as fast in the second round, which cancels in a round's ratio; in the third, other programs
    # slow every row but PyTorch's.
    last = 1.0 if scores is not None and backend == "torch" else 0.2
    row.rounds = [{"pairs_per_second": speed * factor} for factor in (1.0, 0.5, last)]
    if not row.spec.research_form:
        for measured in row.rounds:
            measured.update(text_query=[0.010, 0.012, 0.030], image_query=[0.2])
        row.text_query, row.image_query = ({"p50": p, "p95": 2 * p, "p99": 3 * p} for p in (0.012, 0.2))
        row.images_per_second, row.captions_per_second = 500.0, 600.0
    return row


@pytest.fixture
def chromium(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """chromium(page, *options): open the page in an offline browser; its document is on stdout, its log on stderr."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")

    def visit(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
        usual = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        usual += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [program, *usual, *options, "--dump-dom", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "</html>" in done.stdout, done.stderr
        return done

    return visit


@pytest.fixture
def complaints(chromium, tmp_path) -> Callable[[Path], list[str]]:
    """complaints(page): Chromium's console messages and network requests."""

    def visit(page: Path) -> list[str]:
        log = tmp_path / "network.json"
        done = chromium(page, "--enable-logging=stderr", "--v=0", f"--log-net-log={log}")
        events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
        # The browser's own requests, as for updates, have other keys.
        calls = {e["url"] for e in events if str(e.get("network_isolation_key", "")).startswith("file://")}
        return [*re.findall(r":CONSOLE[:(].*", done.stderr), *sorted(calls)]

    return visit
