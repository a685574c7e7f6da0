"""The fastest tiles and thread layout on this machine, from a few seconds of trials, kept for the next time.

What is fastest can't be told beforehand: it depends on caches, on how many cores others use, and on the model's sizes.
What was measured on a busy machine, or is contradicted by a later run, is used, and measured again after a while.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._files import atomic_file, cache_folder, read_regular
from ..._machine import describe_machine
from ...errors import CaanError, CaanWarning
from ...tiling import DEFAULT_TILE_BYTES
from ..backends.contract import Backend, Layout
from ..encoding import CAPTIONS_PER_CALL
from ..galleries.gallery import Gallery
from .cutters import Choice
from .noise import Watch
from .tiles import score_stream

_VERSION = 2
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
# What is doubted is measured again at the earliest after so long: a busy machine may be quiet then.
_AGAIN_SECONDS = 600.0
# A run that is so many times as fast as its trial, or as slow, contradicts it.
_CONTRADICTS = 1.6


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
    measured: float = 0.0  # seconds since 1970
    noise: tuple[str, ...] = ()  # why it may be wrong: what else went on meanwhile
    contradiction: str = ""  # a later run that was much faster, or slower
    confirmed: bool = False  # a second measurement chose the same

    def choice(self, images: int, captions: int) -> Choice:
        """What to score so many images × captions with."""
        return best(self.query if is_query(images, captions) else self.pairs).choice

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it may be wrong; none once a second measurement chose the same."""
        if self.confirmed:
            return ()
        return self.noise + ((self.contradiction,) if self.contradiction else ())


def is_query(images: int, captions: int) -> bool:
    """Whether so few pairs are limited by memory, not by arithmetic."""
    return min(images, captions) <= _QUERY


def is_due(tuning: Tuning | None) -> bool:
    """Whether to measure before the next large job: nothing is known, or it is doubtful and was left alone a while."""
    if tuning is None:
        return True
    return bool(tuning.doubts) and not 0 <= time.time() - tuning.measured < _AGAIN_SECONDS


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest."""
    return max(trials, key=lambda trial: trial.pairs_per_second)


def is_worth_tuning(backend: Backend, pairs: int) -> bool:
    """Whether scoring so many pairs takes so much longer than tuning that it pays off at once."""
    return is_tunable(backend) and pairs >= _WORTH_PAIRS


def is_tunable(backend: Backend) -> bool:
    """Whether there is more than one way to score with it."""
    return bool(backend.layouts)


def tune(backend: Backend, images: Gallery, texts: Gallery, earlier: Tuning | None = None) -> Tuning:
    """Time every choice on some of these images and captions, and keep the result in the user's cache.

    earlier: what is measured again, and stays if the machine was quiet then and is not now.
    """
    tuning = try_all(backend, images, texts)
    if earlier is not None:
        if all(best(old).choice == best(new).choice for old, new in _both(earlier, tuning)):
            tuning = replace(tuning, confirmed=True)
        elif tuning.noise and not earlier.noise:
            tuning = replace(earlier, measured=tuning.measured)
    _keep(backend, tuning, stacklevel=5)
    return tuning


def compare(backend: Backend, tuning: Tuning, images: int, captions: int, seconds: float) -> Tuning:
    """The tuning with what a run of so many images × captions tells of it, kept too if they contradict each other."""
    pairs = images * captions
    if tuning.doubts or tuning.confirmed or pairs < _WORTH_PAIRS or is_query(images, captions) or seconds <= 0:
        return tuning
    measured, seen = best(tuning.pairs).pairs_per_second, pairs / seconds
    if measured / _CONTRADICTS <= seen <= measured * _CONTRADICTS:
        return tuning
    tuning = replace(tuning, contradiction=f"a run scored {seen:,.0f} pairs/s, its trial {measured:,.0f}")
    _keep(backend, tuning, stacklevel=6)
    return tuning


def _both(one: Tuning, other: Tuning) -> tuple[tuple[tuple[Trial, ...], tuple[Trial, ...]], ...]:
    return (one.query, other.query), (one.pairs, other.pairs)


def _keep(backend: Backend, tuning: Tuning, stacklevel: int) -> None:
    try:
        with atomic_file(_path(backend)) as temporary:
            temporary.write_text(json.dumps(_as_json(backend, tuning)), encoding="utf-8")
    except (CaanError, OSError) as error:  # it costs time alone
        message = f"what was tuned can't be kept for the next time ({error}); name a folder with CAAN_CACHE"
        warnings.warn(message, CaanWarning, stacklevel=stacklevel)


def try_all(backend: Backend, images: Gallery, texts: Gallery) -> Tuning:
    """Time every choice on some of these images and captions."""
    # Neighbours, as searches meet them: what lies on disk is read in one piece, and the rest of it is not.
    images, texts = images.first(_MOST_IMAGES), texts.first(CAPTIONS_PER_CALL)
    watch = Watch()
    query, some = _trials(backend, images, texts.first(1))
    pairs, others = _trials(backend, images, texts)
    return Tuning(query, pairs, time.time(), watch.doubts(np.concatenate([some, others])))


def cached_tuning(backend: Backend) -> Tuning | None:
    """What an earlier `tune` found for this machine, backend and model; None if it never ran."""
    try:
        return _read(json.loads(read_regular(_path(backend))), backend)
    # Not there, or damaged: it is tuned again.
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


@dataclass(frozen=True)
class Kept:
    """A tuning in the user's cache, for whoever looks at the cache alone."""

    of: str  # library and version, device, precision, threads
    age: float  # seconds
    query: str
    pairs: str
    doubts: tuple[str, ...]


def kept_tunings() -> list[Kept]:
    """What the cache holds, the newest first; damaged files are left out."""
    found = []
    for path in cache_folder("tuning").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            content = json.loads(path.read_text(encoding="utf-8"))
            tuning = _read(content, None)
            query, pairs = (describe(best(trials)) for trials in (tuning.query, tuning.pairs))
            found.append(Kept(str(content["of"]), time.time() - tuning.measured, query, pairs, tuning.doubts))
    return sorted(found, key=lambda kept: kept.age)


def describe(trial: Trial) -> str:
    """Its choice in words."""
    tiles, layout = f"{trial.choice.tile_bytes / 2**20:g} MiB tiles", trial.choice.layout
    return tiles if layout is None else f"{tiles}, {layout.workers} × {layout.threads} threads"


def _trials(backend: Backend, images: Gallery, texts: Gallery) -> tuple[tuple[Trial, ...], NDArray[np.float64]]:
    """Every choice, timed in turns on as many pairs as take a trial's time, and the seconds (choices, repetitions)."""
    sizes = _TILE_MEGABYTES if backend.device == "cpu" else _GPU_TILE_MEGABYTES
    choices = [Choice(megabytes << 20, layout) for layout in backend.layouts or (None,) for megabytes in sizes]
    if not is_tunable(backend):
        choices = choices[:1]
    images, texts = _fit_time(backend, images, texts)
    pairs = len(images.live) * len(texts.live)
    seconds = np.full((len(choices), _REPEATS), np.inf)
    for repeat in range(_REPEATS):
        for number, choice in enumerate(choices):
            seconds[number, repeat] = _time(backend, choice, images, texts)
    fastest = seconds.min(axis=1)
    trials = tuple(Trial(choice, pairs / float(t)) for choice, t in zip(choices, fastest, strict=True))
    return trials, seconds


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


def _as_json(backend: Backend, tuning: Tuning) -> dict[str, object]:
    return {
        "of": f"{backend.fingerprint.rsplit(' ', 1)[0]}, {_threads(backend)}",
        "measured": tuning.measured,
        "noise": tuning.noise,
        "contradiction": tuning.contradiction,
        "confirmed": tuning.confirmed,
        **{
            part: [[t.choice.tile_bytes, t.choice.layout, t.pairs_per_second] for t in trials]
            for part, trials in (("query", tuning.query), ("pairs", tuning.pairs))
        },
    }


def _threads(backend: Backend) -> str:
    threads = max((layout.workers * layout.threads for layout in backend.layouts if layout is not None), default=1)
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _read(content: Any, backend: Backend | None) -> Tuning:
    """Raises one of many errors for anything that `_as_json` did not make, for this backend if one is named."""
    query, pairs = (_read_trials(content[part], backend) for part in ("query", "pairs"))
    noise = tuple(map(str, content["noise"]))
    measured, confirmed = float(content["measured"]), content["confirmed"] is True
    return Tuning(query, pairs, measured, noise, str(content["contradiction"]), confirmed)


def _read_trials(content: Sequence[Any], backend: Backend | None) -> tuple[Trial, ...]:
    trials = tuple(_read_trial(*trial) for trial in content)
    layouts: Sequence[Layout | None] = (backend.layouts if backend else ()) or (None,)
    if not trials or any(t.choice.tile_bytes < 1 for t in trials):
        raise ValueError("no trials")
    if backend is not None and any(t.choice.layout not in layouts for t in trials):
        raise ValueError("no trials of this backend")
    return trials


def _read_trial(tile_bytes: int, layout: Sequence[int] | None, pairs_per_second: float) -> Trial:
    return Trial(
        Choice(int(tile_bytes), None if layout is None else Layout(*map(int, layout))), float(pairs_per_second)
    )


def _path(backend: Backend) -> Path:
    # Backends opened with other numbers of threads have other layouts.
    layouts = [layout and tuple(layout) for layout in backend.layouts]
    key = f"{_VERSION} {describe_machine()} {backend.fingerprint} {layouts}"
    key = hashlib.sha256(key.encode()).hexdigest()
    return cache_folder("tuning") / f"{key[:32]}.json"
