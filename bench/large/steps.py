"""The measurements of a prepared large gallery, each a dictionary for the record."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..._files import temporary_folder
from ...runtime import Gallery, Retriever
from ...runtime.sketches.kernels import Scanner
from ..own_process import away_from_here
from ..recall import CANDIDATES, IMAGE_TO_TEXT, TEXT_TO_IMAGE, K, recall_curve
from ..timing import seconds
from .prepared import Prepared

QUERIES = 100  # of each direction
APPENDED = 1_000  # images
SKETCHES, SKETCH_BYTES = 1_000_000, 64
_ROUNDS = 5
_COLD_QUERIES, _COLD_CANDIDATES = 10, 200
# In a fresh process: opens a gallery with its sketches; prints seconds and resident bytes before and after.
_OPEN = """
import json, sys, time
import psutil
from caan import Gallery
before = psutil.Process().memory_info().rss
start = time.perf_counter()
gallery = Gallery.open(sys.argv[1])
gallery.sketches.read()
took = time.perf_counter() - start
print(json.dumps([took, before, psutil.Process().memory_info().rss]))
"""


def recall(prepared: Prepared, scenes: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Both directions' curves in the galleries of this size, on single queries."""
    retriever = Retriever.open(prepared.bundle)
    captions, numbers = prepared.queries(QUERIES, scenes)
    images = [np.array(prepared.scenes.regions(number)) for number in numbers]
    curves = []
    for direction, queries, folder in (
        (TEXT_TO_IMAGE, captions, prepared.images[scenes]),
        (IMAGE_TO_TEXT, images, prepared.captions[scenes]),
    ):
        progress(f"{direction}, {scenes:,} items: {len(queries)} queries, exactly and with up to {max(CANDIDATES):,}")
        curves.append(recall_curve(retriever, direction, queries, Gallery.open(folder)).as_dict())
    return {"backend": retriever.backend.name, "k": K, "curves": curves}


def opening(gallery: Path) -> dict[str, float]:
    """Seconds, and resident bytes, of opening a gallery in a fresh process: medians."""
    measured = []
    for _ in range(_ROUNDS):
        with away_from_here():
            done = subprocess.run([sys.executable, "-c", _OPEN, str(gallery)], capture_output=True, check=True)
        measured.append(json.loads(done.stdout))
    took, before, after = np.median(measured, axis=0).tolist()
    return {"seconds": took, "resident_bytes": after, "resident_bytes_before": before}


def appending(prepared: Prepared, scenes: int) -> dict[str, float]:
    """Seconds of appending APPENDED images to a copy of the gallery, and of encoding the same ones alone, in turns."""
    retriever = Retriever.open(prepared.bundle)
    features = np.array(prepared.scenes.features[:APPENDED])
    encoded, appended = [], []
    with temporary_folder("append", "a copy of the gallery") as folder:
        copy = Path(shutil.copytree(prepared.images[scenes], folder / "gallery"))
        for number in range(3):
            encoded.append(seconds(partial(retriever.encode_images, features)))
            ids = [f"appended-{number}-{item}" for item in range(APPENDED)]
            appended.append(seconds(partial(Gallery.open(copy).append, retriever, features, ids=ids)))
    ratio = float(np.median(np.divide(appended, encoded)))
    return {"encoding": float(np.median(encoded)), "appending": float(np.median(appended)), "ratio": ratio}


def scanning(threads: int) -> dict[str, float]:
    """Seconds of the best hundred among a million random sketches for one query, and of summing them as 64-bit words,
    on as many threads, in turns."""
    random = np.random.default_rng(0)
    sketches = random.integers(-127, 128, (SKETCHES, SKETCH_BYTES), np.int8)
    query = random.integers(-32767, 32768, (1, SKETCH_BYTES), np.int16)
    scanner = Scanner(threads)
    parts = np.array_split(sketches.view(np.int64), threads)
    scans, reads = [], []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4 * _ROUNDS):
            reads.append(seconds(lambda: list(pool.map(np.sum, parts))))
            scans.append(seconds(partial(scanner.best, sketches, query, 100)))
    ratio = float(np.median(np.divide(scans, reads)))
    return {"scan": float(np.median(scans)), "read": float(np.median(reads)), "ratio": ratio}


def cold(prepared: Prepared, scenes: int) -> dict[str, float]:
    """Milliseconds of a text query whose survivors' states are not in the page cache, and of the same query again."""
    retriever = Retriever.open(prepared.bundle)
    captions, _ = prepared.queries(_COLD_QUERIES, scenes)
    states = prepared.images[scenes] / "states.bin"
    measured = []
    for caption in captions:
        gallery = Gallery.open(prepared.images[scenes])
        _drop_from_cache(states)
        search = partial(retriever.search, caption, gallery, K, candidates=min(_COLD_CANDIDATES, scenes))
        measured.append([seconds(search), seconds(search)])
        del gallery, search
    first, again = np.median(measured, axis=0) * 1000
    return {"candidates": _COLD_CANDIDATES, "cold": float(first), "warm": float(again)}


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a gallery."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _drop_from_cache(path: Path) -> None:
    """Have the system forget a file's pages; nothing may have them mapped."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
