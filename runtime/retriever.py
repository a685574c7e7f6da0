"""The public interface: open a model, encode, search, score, explain."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_file, reserve, temporary_folder
from .._progress import progress_bar
from ..bundle import state_widths
from ..errors import DataError, InputError
from ..tiling import DEFAULT_TILE_BYTES, GPU_TILE_BYTES
from .arguments import check_is_backend, check_is_gallery, check_is_path
from .backends.contract import Backend
from .backends.registry import open_backend
from .encoding import CAPTIONS_PER_CALL, IMAGES_PER_CALL, Encoded, encode_images, encode_tokens, place
from .explain import Explanation, explain
from .galleries.gallery import Gallery, new_states, offsets_of
from .inputs import (
    Tokens,
    are_images,
    check_any_left,
    check_features,
    check_gallery,
    check_known,
    hits_wanted,
    image_lengths,
    pad_features,
    random_captions,
    tokenize,
)
from .lists import Caption as Caption
from .lists import Query, captions_of, ids_of, queries_of
from .scoring.cutters import Choice
from .scoring.states import gather_states
from .scoring.tiles import Scored, score_stream
from .scoring.top_k import NOBODY, TopK
from .scoring.tuning import Tuning, cached_tuning, compare, is_due, is_worth_tuning, tune
from .scoring.unscored import Unscored

# Images that are searched with: more of them leave their states on disk.
_QUERIES_IN_MEMORY = 64

Queries = Sequence[Query] | Gallery


@dataclass(frozen=True)
class Hit:
    """One search result: the item's position in the gallery and its score."""

    index: int
    score: float


class Retriever:
    """Encodes images and captions, and scores every pair with CAAN's cross-attention scorer.

    A Retriever may be used from several threads; calls don't share state. One that `open` made may be pickled, as its
    path and options: whoever loads the pickle opens it again. A forked process may use its parent's on the CPU.
    """

    def __init__(self, backend: Backend, tile_bytes: int | None = None) -> None:
        check_is_backend(backend)
        self.backend = backend
        default = DEFAULT_TILE_BYTES if backend.device == "cpu" else GPU_TILE_BYTES
        self.tile_bytes = default if tile_bytes is None else tile_bytes
        self.tuning = cached_tuning(backend) if tile_bytes is None else None
        self._may_tune = tile_bytes is None
        self._tuning_lock = Lock()
        self._opened: dict[str, Any] | None = None  # what `open` was called with
        self._process = os.getpid()

    @classmethod
    def open(
        cls,
        path: str | Path,
        backend: str = "auto",
        precision: str = "fp32",
        *,
        device: str = "auto",
        threads: int | None = None,
        tile_bytes: int | None = None,
        trust_engines: bool = False,
    ) -> Retriever:
        """Open a bundle; for `backend="torch"`, a checkpoint.

        backend: native, onnxruntime, tensorrt, triton, torch, or auto: tensorrt where the bundle has an engine that was
        checked on a GPU and loads here, else native where its package is installed and no GPU is used, else
        onnxruntime; precision: one that the bundle has, or bf16 with native and triton; device: cpu, cuda or auto;
        threads: of the scorer on the CPU, all cores by default; tile_bytes: memory for one tile's intermediates. By
        default it is what `tune` found on this machine, else 64 MiB on a CPU and 1 GiB on a GPU, an engine's profiles
        permitting; native has no intermediates, and no use for it; trust_engines: also run engines that were not built
        here, which are programs (docs/security.md).

        Raises InputError for an unknown backend, precision or device, and for what is not a path; BundleError or
        CheckpointError for a file that can't be used; MissingError for a package or device that is not there.
        CaanWarning for a precision that missed its accuracy gate.
        """
        if (threads is not None and threads < 1) or (tile_bytes is not None and tile_bytes < 1):
            raise InputError(f"threads and tile_bytes must be 1 or more, not {threads} and {tile_bytes}")
        check_is_path(path)
        opened = open_backend(backend, Path(path), precision, device, threads, trust_engines=trust_engines)
        retriever = cls(opened, tile_bytes)
        options = {"backend": backend, "precision": precision, "device": device, "threads": threads}
        more = {"tile_bytes": tile_bytes, "trust_engines": trust_engines}
        retriever._opened = {"path": Path(path).absolute(), **options, **more}
        return retriever

    def __reduce__(self) -> tuple[Any, ...]:
        if self._opened is None:
            raise InputError(
                "a Retriever that was made from a backend can't be sent to another process; send one that"
                " Retriever.open made, or open it there"
            )
        return _open_again, (self._opened,)

    def encode_images(
        self,
        features: NDArray[np.floating],
        lengths: NDArray[np.integer] | Sequence[int] | None = None,
        *,
        ids: Sequence[str] | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Encode region features into a gallery.

        features (N, R, F) float of any width, may be memory-mapped: it is read in chunks; lengths (N,) int, regions
        of each image (all R by default), rows beyond are ignored; ids (N,) names; `folder`: existing folder for the
        states, which are then memory-mapped. `caan index` makes galleries that stay.
        Raises DataError, naming the image, for another feature dimension, too many regions, NaN, infinity, or a region
        whose norm is 1e19 or more.
        """
        self._check_process()
        check_features(features, self.backend.model.config["region_dim"], self.backend.model.limits["regions"])
        regions = image_lengths(features, lengths)
        with progress_bar(len(features), "encoding images", "image", progress) as bar:
            encoded = _counted(bar, encode_images(self.backend, features))
            return self._encode("image", regions, encoded, ids, folder)

    def encode_captions(
        self,
        captions: Sequence[Caption],
        *,
        ids: Sequence[str] | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Encode captions, each text or a list of tokens, into a gallery.

        A caption longer than the model's limit is cut, words that the vocabulary lacks are scored as unknown ones; both
        with a CaanWarning, which names the words of ten captions. Raises DataError, naming the caption, for one that is
        empty, not UTF-8, or neither text nor tokens.
        """
        self._check_process()
        tokens, lengths = tokenize(captions, self.backend.model.vocabulary, self.backend.model.limits["words"])
        with progress_bar(len(tokens), "encoding captions", "caption", progress) as bar:
            encoded = _counted(bar, encode_tokens(self.backend, tokens, lengths))
            return self._encode("text", lengths, encoded, ids, folder)

    def search(self, query: Query, gallery: Gallery, k: int | None = None) -> list[Hit]:
        """The k best items of a gallery, best first; equal scores in the gallery's order.

        query: a caption (text or tokens) for a gallery of images; region features (R, F) for one of captions; k: 10 by
        default, or all there are. An item whose score is NaN or infinite, as its states or the model's numbers may
        make it, is left out with a CaanWarning.
        Raises DataError for k above the gallery's size, for a caption without a known word, for a query that has a
        score with no item, and as encoding does; InputError for what is not a Gallery. CaanWarning as
        `encode_captions`.
        """
        check_is_gallery(gallery, query)
        return self._search(self._queries([query], gallery), gallery, k, False)[0]

    def search_many(
        self, queries: Queries, gallery: Gallery, k: int | None = None, *, progress: bool = False
    ) -> list[list[Hit]]:
        """As `search` for each query, sharing the encoder's and the scorer's work. No score matrix is ever made.

        queries: captions, or a gallery of captions, for a gallery of images; region features (R_i, F) of images, or a
        gallery of images, for one of captions; its deleted items find nothing. Raises what `search` raises, naming the
        query.
        """
        check_is_gallery(gallery)
        queries = queries if isinstance(queries, Gallery) else queries_of(queries)
        with ExitStack() as stack:
            folder = None
            if len(queries) > _QUERIES_IN_MEMORY:
                folder = stack.enter_context(temporary_folder("queries", "the queries' states"))
            return self._search(self._queries(queries, gallery, folder), gallery, k, progress)

    def explain(self, features: NDArray[np.floating], caption: Caption) -> Explanation:
        """What CAAN looks at in one image, features (R, F), for one caption, text or tokens.

        FP16 and INT8 encode in their precision; the scorer's part is FP32 whatever the precision, so its score may
        differ from a search's in the last digits. Raises DataError for features of another shape, for a caption
        without a known word, and as encoding does; BundleError for a bundle without the explainer graph; MissingError
        without ONNX Runtime.
        """
        self._check_process()
        return explain(self.backend, features, caption)

    def score_matrix(
        self,
        gallery: Gallery,
        captions: Sequence[Caption] | Gallery,
        *,
        out: str | Path | None = None,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Scores of every image of a gallery with every caption, (N, M) float32; -inf for deleted items.

        captions: texts, token lists, or a gallery of captions. Texts are encoded on the way, so their states never
        are in memory all at once. `out`: a file (.npy) for the scores, which are then memory-mapped from it; written
        beside it and moved into place. A score that is NaN or infinite stays so, with a CaanWarning that names the
        image or caption. Raises DataError as `encode_captions`, BundleError for another model's gallery, OutputError
        if `out` can't be written.
        """
        check_is_gallery(gallery, captions, "score_matrix(gallery, captions)")
        check_gallery(gallery, "image", self.backend)
        if isinstance(captions, Gallery):
            check_gallery(captions, "text", self.backend)
            texts: Gallery | Tokens = captions
        else:
            captions = captions_of(captions)
            texts = tokenize(captions, self.backend.model.vocabulary, self.backend.model.limits["words"])
        shape = (len(gallery), len(captions))
        if out is None:
            scores = np.empty(shape, np.float32)
            self._fill(scores, gallery, texts, progress)
            return scores
        if not isinstance(out, str | Path):
            raise InputError(f"out must be the name of a file for the scores, not {type(out).__name__}")
        with atomic_file(Path(out)) as temporary:
            mapped = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
            reserve(temporary)
            self._fill(mapped, gallery, texts, progress)
            mapped.flush()
        result: NDArray[np.float32] = np.load(out, mmap_mode="r")
        return result

    def score_dataset(
        self, features: NDArray[np.floating], captions: Sequence[Caption], *, progress: bool = False
    ) -> NDArray[np.float32]:
        """Scores (N, M) of features (N, R, F) with captions; image states go to a temporary memory-mapped file.

        Raises DataError as `encode_images` and `encode_captions`, OutputError if there is no room for the states.
        """
        with temporary_folder("states", "the images' states") as folder:
            gallery = self.encode_images(features, folder=folder, progress=progress)
            return self.score_matrix(gallery, captions, progress=progress)

    def load(self, gallery: Gallery) -> Gallery:
        """The same gallery in memory, as the scorer takes it: nothing is read, widened or computed again per query.

        For (rows, S) states of `backend.state_dtype`; deleted items stay deleted. Raises as `search`.
        """
        self._check_process()
        check_is_gallery(gallery)
        check_gallery(gallery, gallery.kind, self.backend)
        width = state_widths(self.backend.model.config)[gallery.kind]
        states = new_states(int(gallery.offsets[-1]), width, self.backend.state_dtype, None)
        for start in range(0, len(gallery), IMAGES_PER_CALL):
            items = np.arange(start, min(start + IMAGES_PER_CALL, len(gallery)))
            padded, lengths = gather_states(self.backend, gallery, items)
            rows = states[gallery.offsets[start] : gallery.offsets[items[-1] + 1]]
            rows[:] = padded[np.arange(padded.shape[1]) < lengths[:, None]]
        gallery.confirm()
        return replace(gallery, states=states, compact=False, check=None)

    def tune(self, gallery: Gallery, captions: Sequence[Caption] | Gallery | None = None) -> Tuning:
        """Find the fastest tiles and thread layout for this gallery of images on this machine: a few seconds.

        captions: what will be searched for, by default random words. The result is used from now on, and kept for
        other processes with the same machine, backend and bundle. Scoring many pairs at once does this by itself, again
        where the machine was busy (`Tuning.doubts`), or a run was much faster or slower than its trial.
        """
        check_is_gallery(gallery)
        check_gallery(gallery, "image", self.backend)
        if captions is None:
            captions = random_captions(self.backend.model.vocabulary, CAPTIONS_PER_CALL)
        if not isinstance(captions, Gallery):
            captions = self.encode_captions(captions[:CAPTIONS_PER_CALL])
        check_gallery(captions, "text", self.backend)
        check_any_left(gallery)
        check_any_left(captions)
        self.tuning = tune(self.backend, gallery, captions)
        return self.tuning

    def choice(self, images: int, captions: int) -> Choice:
        """The tiles and thread layout that so many images × captions are scored with now."""
        return Choice(self.tile_bytes) if self.tuning is None else self.tuning.choice(images, captions)

    def _queries(self, queries: Queries, gallery: Gallery, folder: Path | None = None) -> Gallery | Tokens:
        """Captions as tokens, images as a gallery, in memory or in `folder`; what is encoded already as it is."""
        if isinstance(queries, Gallery):
            check_gallery(queries, "text" if gallery.kind == "image" else "image", self.backend)
            return queries
        queries = queries_of(queries)
        if are_images(queries, gallery.kind):
            return self.encode_images(*pad_features(queries, self.backend.model.config["region_dim"]), folder=folder)
        captions = cast(Sequence[Caption], queries)
        for number, caption in enumerate(captions):
            try:
                check_known(caption, self.backend.model.vocabulary)
            except DataError as error:
                raise (error if len(captions) == 1 else DataError(f"caption {number}: {error}")) from None
        return tokenize(captions, self.backend.model.vocabulary, self.backend.model.limits["words"], stacklevel=4)

    def _search(self, queries: Gallery | Tokens, gallery: Gallery, k: int | None, progress: bool) -> list[list[Hit]]:
        check_gallery(gallery, gallery.kind, self.backend)
        check_any_left(gallery)
        k = hits_wanted(k, gallery)
        by_image = gallery.kind == "text"
        number = len(queries) if isinstance(queries, Gallery) else len(queries[1])
        best = TopK(number, k)
        images, texts = (queries, gallery) if by_image else (gallery, queries)
        assert isinstance(images, Gallery)
        unscored = Unscored(images, texts)
        for scored in self._scored(images, texts, progress):
            scores = unscored.note(scored)
            if by_image:
                best.add(scored.images, scored.captions, scores)
            else:
                best.add(scored.captions, scored.images, scores.T)
        unscored.check_hits("image" if by_image else "caption")
        hits = [
            [Hit(index, score) for index, score in zip(*row, strict=True) if index != NOBODY]
            for row in zip(best.items.tolist(), best.scores.tolist(), strict=True)
        ]
        if isinstance(queries, Gallery) and queries.deleted is not None:
            return [[] if gone else some for some, gone in zip(hits, queries.deleted, strict=True)]
        return hits

    def _fill(self, scores: NDArray[np.float32], gallery: Gallery, texts: Gallery | Tokens, progress: bool) -> None:
        scores[:] = -np.inf
        unscored = Unscored(gallery, texts)
        for scored in self._scored(gallery, texts, progress):
            unscored.note(scored)
            scores[np.ix_(scored.images, scored.captions)] = scored.scores
        unscored.warn_of_matrix()

    def _scored(self, images: Gallery, texts: Gallery | Tokens, progress: bool) -> Iterator[Scored]:
        self._check_process()
        number = len(texts.live) if isinstance(texts, Gallery) else len(texts[1])
        pairs = len(images.live) * number
        may_tune = self._may_tune and not images.compact and is_worth_tuning(self.backend, pairs)
        if may_tune and is_due(self.tuning):
            self._tune_once(images, texts)
        tuning, choice, seconds = self.tuning, self.choice(len(images.live), number), 0.0
        stream = score_stream(self.backend, choice, images, texts)
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
            self.tuning = compare(self.backend, tuning, len(images.live), number, seconds)

    def _check_process(self) -> None:
        """Raise InputError in a forked process for what does not work there, instead of waiting forever."""
        what = self.backend.process_bound
        if what and self._process != os.getpid():
            raise InputError(f"this process was forked and can't use {what} as its parent does; open the model again")

    def _tune_once(self, images: Gallery, texts: Gallery | Tokens) -> None:
        """Tune, unless another thread is at it: whoever comes meanwhile scores as before."""
        if not self._tuning_lock.acquire(blocking=False):
            return
        try:
            if is_due(self.tuning):
                known = cached_tuning(self.backend)  # of another process, meanwhile
                if is_due(known):
                    some = texts if isinstance(texts, Gallery) else self._some(texts)
                    known = tune(self.backend, images, some, known)
                self.tuning = known
        finally:
            self._tuning_lock.release()

    def _some(self, texts: Tokens) -> Gallery:
        """One encoder call's worth of captions."""
        tokens, lengths = texts[0][:CAPTIONS_PER_CALL], texts[1][:CAPTIONS_PER_CALL]
        return self._encode("text", lengths, encode_tokens(self.backend, tokens, lengths), None, None)

    def _encode(
        self,
        kind: Any,
        lengths: NDArray[np.int64],
        encoded: Iterable[Encoded],
        ids: Sequence[str] | None,
        folder: str | Path | None,
    ) -> Gallery:
        names = ids_of(ids, len(lengths))
        offsets = offsets_of(lengths)
        width = state_widths(self.backend.model.config)[kind]
        states = new_states(int(offsets[-1]), width, self.backend.state_dtype, folder)
        for some in encoded:
            place(states, offsets, some, kind, names)
        return Gallery(kind, self.backend.model.encoders[kind], states, offsets, names)


def _counted(bar: Any, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
    for some in encoded:
        yield some
        bar.update(len(some[0]))


def _open_again(opened: dict[str, Any]) -> Retriever:
    return Retriever.open(**opened)
