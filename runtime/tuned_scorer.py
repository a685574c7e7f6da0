"""Scoring with the fastest tiles and threads for this machine, tuned before the first large job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from threading import Lock
from time import perf_counter

from .._progress import progress_bar
from ..tiling import DEFAULT_TILE_BYTES, GPU_TILE_BYTES
from .backends.contract import Backend
from .encoding import CAPTIONS_PER_CALL, encode_gallery, encode_tokens
from .galleries.gallery import Gallery
from .inputs import Tokens
from .scoring.cutters import Choice
from .scoring.tiles import Scored, score_stream
from .scoring.tuning import Tuning, best, cached_tuning, compare, describe, is_due, is_worth_tuning, tune

_log = logging.getLogger(__name__)


class TunedScorer:
    """Scores pairs with one backend, in the fastest known way for this machine. Thread-safe.

    tile_bytes: memory for one tile's intermediates, in bytes; None: as tuned, else the device's default.
    """

    def __init__(self, backend: Backend, tile_bytes: int | None) -> None:
        self._backend = backend
        default = DEFAULT_TILE_BYTES if backend.device == "cpu" else GPU_TILE_BYTES
        self.tile_bytes = default if tile_bytes is None else tile_bytes
        self.tuning = cached_tuning(backend) if tile_bytes is None else None
        self._may_tune = tile_bytes is None
        self._lock = Lock()

    def choice(self, images: int, captions: int) -> Choice:
        """The tiles and thread layout now used to score images × captions."""
        return Choice(self.tile_bytes) if self.tuning is None else self.tuning.choice(images, captions)

    def tune(self, images: Gallery, captions: Gallery, known: Tuning | None) -> Tuning:
        """Time every choice on a sample and use the fastest from now on. known: an earlier measurement."""
        _log.info("tuning %s started", self._backend.name)
        start = perf_counter()
        self.tuning = tuning = tune(self._backend, images, captions, known)
        chosen = describe(best(tuning.query)), describe(best(tuning.pairs))
        _log.info("tuning ended after %.1f s: queries %s; many pairs %s", perf_counter() - start, *chosen)
        for doubt in tuning.doubts:
            _log.warning("the tuning may be wrong and will be repeated: %s", doubt)
        return tuning

    def scored(self, images: Gallery, texts: Gallery | Tokens, progress: bool) -> Iterator[Scored]:
        """Scores of every live image with every live caption, block by block; tunes first if that pays off."""
        number = len(texts.live) if isinstance(texts, Gallery) else len(texts[1])
        pairs = len(images.live) * number
        may_tune = self._may_tune and not images.compact and is_worth_tuning(self._backend, pairs)
        if may_tune and is_due(self.tuning):
            self._tune_once(images, texts)
        tuning, choice, seconds = self.tuning, self.choice(len(images.live), number), 0.0
        stream = score_stream(self._backend, choice, images, texts)
        with progress_bar(pairs, "scoring", "pair", progress) as bar:
            while True:
                start = perf_counter()
                scored = next(stream, None)
                seconds += perf_counter() - start
                if scored is None:
                    break
                yield scored
                bar.update(scored.scores.size)
        if may_tune and tuning is not None and tuning is self.tuning:
            self.tuning = compare(self._backend, tuning, len(images.live), number, seconds)

    def _tune_once(self, images: Gallery, texts: Gallery | Tokens) -> None:
        """Tune, unless another thread is already tuning; meanwhile other calls score as before."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if is_due(self.tuning):
                known = cached_tuning(self._backend)  # another process may have tuned meanwhile
                if is_due(known):
                    captions = texts if isinstance(texts, Gallery) else self._sample(texts)
                    self.tune(images, captions, known)
                else:
                    self.tuning = known
        finally:
            self._lock.release()

    def _sample(self, texts: Tokens) -> Gallery:
        """The captions of one encoder call."""
        tokens, lengths = texts[0][:CAPTIONS_PER_CALL], texts[1][:CAPTIONS_PER_CALL]
        return encode_gallery(self._backend, "text", lengths, encode_tokens(self._backend, tokens, lengths))
