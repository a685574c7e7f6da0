"""The fastest tiles and thread layout on this machine, from a few seconds of trials, kept for the next time.

What is fastest can't be told beforehand: it depends on caches, on how many cores others use, and on the model's sizes.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._files import atomic_file, cache_folder, read_regular
from .._machine import describe_machine
from ..errors import CaanError, CaanWarning
from ..tiling import DEFAULT_TILE_BYTES
from .backend import Backend, Layout
from .encoding import CAPTIONS_PER_CALL
from .galleries.gallery import Gallery
from .tiles import Choice, score_stream

_VERSION = 1
_TILE_MEGABYTES = (2, 8, 32, 128)
_GPU_TILE_MEGABYTES = (64, 256, 1024, 4096)
# Each trial scores for about so long; the best of _REPEATS counts, since noise only ever adds time.
_TRIAL_SECONDS, _REPEATS = 0.12, 3
# Fewer pairs are scored sooner than trials would pay off.
_WORTH_PAIRS = 300_000
# At most so many captions or images on one side is a query, which is limited by memory, not by arithmetic.
_QUERY = 4
# Of a large gallery, so many images are tried with.
_MOST_IMAGES = 1024


@dataclass(frozen=True)
class Trial:
    """One way to score, and its speed."""

    choice: Choice
    pairs_per_second: float


@dataclass(frozen=True)
class Tuning:
    """What was tried for single queries, and for many captions against many images; the fastest of each is taken."""

    query: tuple[Trial, ...]
    pairs: tuple[Trial, ...]

    def choice(self, images: int, captions: int) -> Choice:
        """What to score so many images × captions with."""
        return best(self.query if min(images, captions) <= _QUERY else self.pairs).choice


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest."""
    return max(trials, key=lambda trial: trial.pairs_per_second)


def is_worth_tuning(backend: Backend, pairs: int) -> bool:
    """Whether scoring so many pairs takes so much longer than tuning that it pays off at once."""
    return is_tunable(backend) and pairs >= _WORTH_PAIRS


def is_tunable(backend: Backend) -> bool:
    """Whether there is more than one way to score with it. PyTorch is the reference, whose tiles are the bench's."""
    return backend.name != "torch" and not backend.fused


def tune(backend: Backend, images: Gallery, texts: Gallery) -> Tuning:
    """Time every choice on some of these images and captions, and keep the result in the user's cache."""
    tuning = try_all(backend, images, texts)
    try:
        with atomic_file(_path(backend)) as temporary:
            temporary.write_text(json.dumps(_as_lists(tuning)), encoding="utf-8")
    except (CaanError, OSError) as error:  # it costs time alone
        message = f"what was tuned can't be kept for the next time ({error}); name a folder with CAAN_CACHE"
        warnings.warn(message, CaanWarning, stacklevel=3)
    return tuning


def try_all(backend: Backend, images: Gallery, texts: Gallery) -> Tuning:
    """Time every choice on some of these images and captions."""
    # Neighbours, as searches meet them: what lies on disk is read in one piece, and the rest of it is not.
    images, texts = images.first(_MOST_IMAGES), texts.first(CAPTIONS_PER_CALL)
    return Tuning(_trials(backend, images, texts.first(1)), _trials(backend, images, texts))


def cached_tuning(backend: Backend) -> Tuning | None:
    """What an earlier `tune` found for this machine, backend and model; None if it never ran."""
    try:
        content = json.loads(read_regular(_path(backend)))
        return Tuning(*(_read_trials(content[part], backend) for part in ("query", "pairs")))
    # Not there, or damaged: it is tuned again.
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _trials(backend: Backend, images: Gallery, texts: Gallery) -> tuple[Trial, ...]:
    """Every choice, timed in turns on as many pairs as take a trial's time."""
    layouts: Sequence[Layout | None] = backend.layouts or (None,)
    sizes = _TILE_MEGABYTES if backend.device == "cpu" else _GPU_TILE_MEGABYTES
    choices = [Choice(megabytes << 20, layout) for layout in layouts for megabytes in sizes]
    if backend.fused:
        choices = choices[:1]
    images, texts = _fit_time(backend, images, texts)
    pairs = len(images.live) * len(texts.live)
    seconds = np.full((len(choices), _REPEATS), np.inf)
    for repeat in range(_REPEATS):
        for number, choice in enumerate(choices):
            seconds[number, repeat] = _time(backend, choice, images, texts)
    fastest = seconds.min(axis=1)
    return tuple(Trial(choice, pairs / float(t)) for choice, t in zip(choices, fastest, strict=True))


def _fit_time(backend: Backend, images: Gallery, texts: Gallery) -> tuple[Gallery, Gallery]:
    """As many of the images and captions as fill a trial's time, of both about equally many."""
    first = images.first(8), texts.first(8)
    default = Choice(DEFAULT_TILE_BYTES)
    _time(backend, default, *first)  # warm up
    pairs = _TRIAL_SECONDS * len(first[0].live) * len(first[1].live) / _time(backend, default, *first)
    captions = min(len(texts.live), int(pairs**0.5) + 1)
    return images.first(max(8, int(pairs / captions))), texts.first(captions)


def _time(backend: Backend, choice: Choice, images: Gallery, texts: Gallery) -> float:
    start = time.perf_counter()
    for _ in score_stream(backend, choice, images, texts):
        pass
    return time.perf_counter() - start


def _as_lists(tuning: Tuning) -> dict[str, list[list[object]]]:
    return {
        part: [[t.choice.tile_bytes, t.choice.layout, t.pairs_per_second] for t in trials]
        for part, trials in (("query", tuning.query), ("pairs", tuning.pairs))
    }


def _read_trials(content: Sequence[Any], backend: Backend) -> tuple[Trial, ...]:
    """Raises ValueError or TypeError for anything that `_as_lists` did not make for such a backend."""
    trials = tuple(_read_trial(*trial) for trial in content)
    layouts: Sequence[Layout | None] = backend.layouts or (None,)
    if not trials or any(t.choice.tile_bytes < 1 or t.choice.layout not in layouts for t in trials):
        raise ValueError("no trials of this backend")
    return trials


def _read_trial(tile_bytes: int, layout: Sequence[int] | None, pairs_per_second: float) -> Trial:
    return Trial(
        Choice(int(tile_bytes), None if layout is None else Layout(*map(int, layout))), float(pairs_per_second)
    )


def _path(backend: Backend) -> Path:
    # Backends opened with other numbers of threads have other layouts.
    key = f"{_VERSION} {describe_machine()} {backend.fingerprint} {[tuple(layout) for layout in backend.layouts]}"
    key = hashlib.sha256(key.encode()).hexdigest()
    return cache_folder("tuning") / f"{key[:32]}.json"
