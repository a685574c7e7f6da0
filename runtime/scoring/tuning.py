"""Finds the fastest tiles and thread layout on this machine in a few seconds of trials, and caches them.

The fastest choice can't be predicted: it depends on CPU caches, on how many cores others use, and on the model's sizes.
A result measured on a busy machine, or contradicted by a later run, is used for now and measured again later.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._cache import cache_file, cache_folder, read_cached, write_cached
from ..._machine import describe_machine
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
# Duration of a trial. The fastest of _REPEATS counts, since noise only adds time.
_TRIAL_SECONDS, _REPEATS = 0.12, 3
# Below this, tuning takes longer than it saves.
_WORTH_PAIRS = 300_000
# With at most this many images or captions it is a query, which is limited by memory bandwidth, not arithmetic.
_QUERY = 4
# Images of a large gallery used for trials.
_MOST_IMAGES = 1024
# Wait before a doubtful result is measured again: the machine may be quiet by then.
_AGAIN_SECONDS = 600.0
# A run this many times faster or slower than its trial contradicts it.
_CONTRADICTS = 1.6


@dataclass(frozen=True)
class Trial:
    """One way to score, and its speed."""

    choice: Choice
    pairs_per_second: float


@dataclass(frozen=True)
class Tuning:
    """The trials for single queries and for many captions × many images; the fastest of each is used."""

    query: tuple[Trial, ...]
    pairs: tuple[Trial, ...]
    measured: float = 0.0  # seconds since 1970
    noise: tuple[str, ...] = ()  # signs that the machine was busy meanwhile
    contradiction: str = ""  # a later run that was much faster, or slower
    confirmed: bool = False  # a second measurement chose the same

    def choice(self, images: int, captions: int) -> Choice:
        """The choice for scoring images × captions."""
        return best(self.query if is_query(images, captions) else self.pairs).choice

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why it may be wrong; empty once a second measurement made the same choice."""
        if self.confirmed:
            return ()
        return self.noise + ((self.contradiction,) if self.contradiction else ())


def is_query(images: int, captions: int) -> bool:
    """Whether scoring is limited by memory bandwidth rather than arithmetic."""
    return min(images, captions) <= _QUERY


def is_due(tuning: Tuning | None) -> bool:
    """Whether to measure before the next large job: never measured, or doubtful and old enough."""
    if tuning is None:
        return True
    return bool(tuning.doubts) and not 0 <= time.time() - tuning.measured < _AGAIN_SECONDS


def best(trials: Sequence[Trial]) -> Trial:
    """The fastest trial."""
    return max(trials, key=lambda trial: trial.pairs_per_second)


def is_worth_tuning(backend: Backend, pairs: int) -> bool:
    """Whether scoring this many pairs takes long enough for tuning to pay off immediately."""
    return is_tunable(backend) and pairs >= _WORTH_PAIRS


def is_tunable(backend: Backend) -> bool:
    """Whether the backend has more than one way to score."""
    return bool(backend.layouts)


def tune(backend: Backend, images: Gallery, texts: Gallery, earlier: Tuning | None = None) -> Tuning:
    """Time every choice on a sample of images and captions, and store the result in the user's cache.

    earlier: the result being re-measured; it is kept if the machine was quiet then and is busy now.
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
    """The tuning after a run of images × captions; if the run contradicts it, that is noted and cached."""
    pairs = images * captions
    if tuning.doubts or tuning.confirmed or pairs < _WORTH_PAIRS or is_query(images, captions) or seconds <= 0:
        return tuning
    measured, actual = best(tuning.pairs).pairs_per_second, pairs / seconds
    if measured / _CONTRADICTS <= actual <= measured * _CONTRADICTS:
        return tuning
    tuning = replace(tuning, contradiction=f"a run scored {actual:,.0f} pairs/s, its trial {measured:,.0f}")
    _keep(backend, tuning, stacklevel=6)
    return tuning


def _both(one: Tuning, other: Tuning) -> tuple[tuple[tuple[Trial, ...], tuple[Trial, ...]], ...]:
    return (one.query, other.query), (one.pairs, other.pairs)


def _keep(backend: Backend, tuning: Tuning, stacklevel: int) -> None:
    write_cached(
        _path(backend), json.dumps(_as_json(backend, tuning)).encode(), "the tuning", stacklevel=stacklevel + 1
    )


def try_all(backend: Backend, images: Gallery, texts: Gallery) -> Tuning:
    """Time every choice on a sample of images and captions."""
    # Adjacent items, as searches use them: one contiguous read from disk, and nothing else.
    images, texts = images.first(_MOST_IMAGES), texts.first(CAPTIONS_PER_CALL)
    watch = Watch()
    query, query_seconds = _trials(backend, images, texts.first(1))
    pairs, pairs_seconds = _trials(backend, images, texts)
    return Tuning(query, pairs, time.time(), watch.doubts(np.concatenate([query_seconds, pairs_seconds])))


def cached_tuning(backend: Backend) -> Tuning | None:
    """The result of an earlier `tune` for this machine, backend and model; None if there is none."""
    return read_cached(_path(backend), lambda content: _read(json.loads(content), backend))


@dataclass(frozen=True)
class CachedTuning:
    """Summary of a tuning in the user's cache, readable without its backend."""

    of: str  # library and version, device, precision, threads
    age: float  # seconds
    query: str
    pairs: str
    doubts: tuple[str, ...]


def cached_tunings() -> list[CachedTuning]:
    """All tunings in the cache, newest first; damaged files are skipped."""
    summaries = [read_cached(path, _summary) for path in cache_folder("tuning").glob("*.json")]
    return sorted((tuning for tuning in summaries if tuning is not None), key=lambda tuning: tuning.age)


def _summary(content: bytes) -> CachedTuning:
    entry = json.loads(content)
    tuning = _read(entry, None)
    query, pairs = (describe(best(trials)) for trials in (tuning.query, tuning.pairs))
    return CachedTuning(str(entry["of"]), time.time() - tuning.measured, query, pairs, tuning.doubts)


def describe(trial: Trial) -> str:
    """A trial's choice in words."""
    tiles, layout = f"{trial.choice.tile_bytes / 2**20:g} MiB tiles", trial.choice.layout
    return tiles if layout is None else f"{tiles}, {layout.workers} × {layout.threads} threads"


def _trials(backend: Backend, images: Gallery, texts: Gallery) -> tuple[tuple[Trial, ...], NDArray[np.float64]]:
    """Every choice, timed in turn on pairs that fill a trial's time, and the seconds (choices, repetitions)."""
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
    """About as many images as captions, together filling a trial's time."""
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
    """Raises various errors for anything not written by `_as_json`, or not for this backend if one is given."""
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
    # The layouts depend on the number of threads the backend was opened with.
    layouts = [layout and tuple(layout) for layout in backend.layouts]
    return cache_file("tuning", f"{_VERSION} {describe_machine()} {backend.fingerprint} {layouts}", ".json")
