"""The public interface: open a model, encode, search, score, explain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_file, reserve, temporary_folder
from ..errors import InputError
from .arguments import check_is_gallery
from .backends.contract import Backend
from .encoding import CAPTIONS_PER_CALL
from .explain import Explanation, explain
from .galleries.gallery import Gallery
from .hits import EXACT, Hits, Shortlist, best_hits, resolve_min_score
from .hits import Hit as Hit
from .inputs import (
    Tokens,
    are_images,
    check_any_left,
    check_gallery,
    pad_features,
    random_captions,
    resolve_k,
    tokenize,
)
from .lists import Caption as Caption
from .lists import Query, captions_of, queries_of
from .opened_model import OpenedModel
from .scoring.cutters import Choice
from .scoring.tiles import Scored
from .scoring.tuning import Tuning
from .scoring.unscored import Unscored
from .sketches.shortlist import best_sketches, read_ahead, resolve
from .sketches.sketcher import encoded
from .tuned_scorer import TunedScorer

# With more query images than this, their states go to disk.
_QUERIES_IN_MEMORY = 64

Queries = Sequence[Query] | Gallery
Ids = Iterable[str | int]


class Retriever(OpenedModel):
    """Encodes images and captions, and scores pairs with CAAN's cross-attention scorer.

    Thread-safe: calls share no state. A Retriever from `open` can be pickled, as its path and options; unpickling opens
    it again. On the CPU, a forked process may use its parent's.
    """

    def __init__(self, backend: Backend, tile_bytes: int | None = None) -> None:
        super().__init__(backend)
        self._scorer = TunedScorer(backend, tile_bytes)

    @property
    def tile_bytes(self) -> int:
        """Memory for one tile's intermediates, in bytes, without tuning."""
        return self._scorer.tile_bytes

    @property
    def tuning(self) -> Tuning | None:
        """The measured tiles and thread layouts of this machine; None if never tuned."""
        return self._scorer.tuning

    @tuning.setter
    def tuning(self, tuning: Tuning | None) -> None:
        self._scorer.tuning = tuning

    def search(
        self,
        query: Query,
        gallery: Gallery,
        k: int | None = None,
        *,
        clamp: bool = False,
        ids: Ids | None = None,
        exclude: Ids | None = None,
        min_score: float | None = None,
        recall: float | None = None,
        candidates: int | None = None,
    ) -> Hits:
        """The k best items of a gallery, best first; equal scores in the gallery's order.

        query: a caption (text or tokens) to search images, or region features (R, F) to search captions; k: 10 by
        default, or all items if there are fewer; clamp: a k above the gallery's size returns all items instead of
        raising; ids: search only these items; exclude: skip these; min_score: drop lower scores. Ids are as in
        `Hit.id`, or indices (int); unknown ones are ignored. Filters are exact: only the selected items are
        scored and ranked, so there may be fewer than k hits, or none. An item whose score is NaN or infinite, because
        of its states or the model's weights, is left out with a CaanWarning.
        recall: the share of the exact k best items that suffices, such as 0.99: only as many of the best sketches are
        scored as had that recall when the gallery was measured. candidates: a fixed number of them instead. All
        items are scored by default, with recall=1, and with a CaanWarning where the recall can't be promised. Scores
        of hits are always exact; `Hits` says how many were scored. Filters apply before candidates are chosen.
        Raises DataError for k above the gallery's size, for a caption without a known word, for a query without a
        score for any item, for a gallery without sketches where they are needed, and as encoding does; BundleError for
        another model's gallery or sketches; InputError if `gallery` is not a Gallery, for filters that are not lists of
        ids or a number, for a recall outside 0 to 1, fewer candidates than k, or both. CaanWarning as
        `encode_captions`.
        """
        check_is_gallery(gallery, query)
        queries = self._queries([query], gallery)
        return best_hits(*self._plan(queries, gallery, k, clamp, ids, exclude, min_score, recall, candidates))[0]

    def search_many(
        self,
        queries: Queries,
        gallery: Gallery,
        k: int | None = None,
        *,
        clamp: bool = False,
        ids: Ids | None = None,
        exclude: Ids | None = None,
        min_score: float | None = None,
        recall: float | None = None,
        candidates: int | None = None,
        progress: bool = False,
    ) -> list[Hits]:
        """As `search` for each query, encoded and scored in batches. No score matrix is built.

        queries: captions or a gallery of captions to search images; region features (R_i, F) or a gallery of images to
        search captions. Deleted items of a query gallery get no hits. Raises as `search`, naming the query.
        """
        check_is_gallery(gallery)
        queries = queries if isinstance(queries, Gallery) else queries_of(queries)
        with ExitStack() as stack:
            folder = None
            if len(queries) > _QUERIES_IN_MEMORY:
                folder = stack.enter_context(temporary_folder("queries", "the queries' states"))
            encoded = self._queries(queries, gallery, folder)
            plan = self._plan(encoded, gallery, k, clamp, ids, exclude, min_score, recall, candidates, progress)
            return best_hits(*plan)

    def explain(self, features: NDArray[np.floating], caption: Caption) -> Explanation:
        """CAAN's attention for one image, features (R, F), and one caption, text or tokens.

        FP16 and INT8 encode in their precision; the scorer always runs in FP32, so the score may differ from a
        search's in the last digits. Raises DataError for features of another shape, for a caption without a known
        word, and as encoding does; BundleError for a bundle without the explainer graph; MissingError without ONNX
        Runtime.
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

        captions: texts, token lists, or a gallery of captions. Texts are encoded in batches, so their states are never
        all in memory. out: a file (.npy) for the scores, which are then memory-mapped from it; written beside it and
        moved into place. NaN and infinite scores are kept, with a CaanWarning that names the image or caption. Raises
        DataError as `encode_captions`, BundleError for another model's gallery, OutputError if `out` can't be written.
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
        self,
        features: NDArray[np.floating],
        captions: Sequence[Caption],
        *,
        lengths: NDArray[np.integer] | Sequence[int] | None = None,
        progress: bool = False,
    ) -> NDArray[np.float32]:
        """Scores (N, M) of features (N, R, F) with M captions; image states go to a temporary memory-mapped file.

        lengths (N,) int: regions of each image, as `encode_images`.

        Raises DataError as `encode_images` and `encode_captions`, OutputError if there is no room for the states.
        """
        with temporary_folder("states", "the images' states") as folder:
            gallery = self.encode_images(features, lengths, folder=folder, progress=progress)
            return self.score_matrix(gallery, captions, progress=progress)

    def tune(self, gallery: Gallery, captions: Sequence[Caption] | Gallery | None = None) -> Tuning:
        """Find the fastest tiles and thread layout for this gallery of images on this machine; takes a few seconds.

        captions: typical queries, by default random words. The result is used from now on and cached for other
        processes with the same machine, backend and bundle. Scoring many pairs tunes automatically, and again if the
        machine was busy (`Tuning.doubts`) or a run was much faster or slower than its trial.
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
        return self._scorer.tune(gallery, captions, None)

    def choice(self, images: int, captions: int) -> Choice:
        """The tiles and thread layout now used to score images × captions."""
        return self._scorer.choice(images, captions)

    def _queries(self, queries: Queries, gallery: Gallery, folder: Path | None = None) -> Gallery | Tokens:
        """Captions as tokens, images as a gallery in memory or in `folder`; a gallery unchanged."""
        if isinstance(queries, Gallery):
            check_gallery(queries, "text" if gallery.kind == "image" else "image", self.backend)
            return queries
        queries = queries_of(queries)
        if are_images(queries, gallery.kind):
            return self.encode_images(*pad_features(queries, self.backend.model.config["region_dim"]), folder=folder)
        captions = cast(Sequence[Caption], queries)
        return tokenize(
            captions, self.backend.model.vocabulary, self.backend.model.limits["words"], stacklevel=4, searching=True
        )

    def _plan(
        self,
        queries: Gallery | Tokens,
        gallery: Gallery,
        k: int | None,
        clamp: bool,
        ids: Ids | None,
        exclude: Ids | None,
        min_score: float | None,
        recall: float | None,
        candidates: int | None,
        progress: bool = False,
    ) -> _Plan:
        """The arguments of `best_hits`."""
        check_gallery(gallery, gallery.kind, self.backend)
        check_any_left(gallery)
        k, min_score = resolve_k(k, gallery, clamp=clamp), resolve_min_score(min_score)
        shortlist = resolve(gallery, k, recall, candidates)
        searched = gallery.select(ids, exclude)
        stream: Iterator[Scored] | None = None
        if shortlist.candidates is not None and shortlist.candidates < len(searched.live):
            if not isinstance(queries, Gallery):
                queries = encoded(self.backend, queries)
            stream = self._shortlisted(queries, searched, shortlist.candidates)
        images, texts = _sides(queries, searched)
        if stream is None:
            shortlist, stream = EXACT, self._scored(images, texts, progress)
        return _Plan(stream, images, texts, searched, min(k, len(searched.live)), min_score, shortlist)

    def _shortlisted(self, queries: Gallery, searched: Gallery, candidates: int) -> Iterator[Scored] | None:
        """Scores of each query with the best candidates by their sketches; None where sketches can't tell."""
        self._check_process()
        best = best_sketches(self._sketcher(), self._scanner, queries, searched, candidates)
        if best is None:
            return None

        def score() -> Iterator[Scored]:
            for query, items in zip(queries.live, best, strict=True):
                read_ahead(searched, items)
                view = searched.narrowed(items)
                yield from self._scorer.scored(*_sides(queries.narrowed(query[None]), view), progress=False)

        return score()

    def _fill(self, scores: NDArray[np.float32], gallery: Gallery, texts: Gallery | Tokens, progress: bool) -> None:
        scores[:] = -np.inf
        unscored = Unscored(gallery, texts)
        for scored in self._scored(gallery, texts, progress):
            unscored.note(scored)
            scores[np.ix_(scored.images, scored.captions)] = scored.scores
        unscored.warn_of_matrix()

    def _scored(self, images: Gallery, texts: Gallery | Tokens, progress: bool) -> Iterator[Scored]:
        self._check_process()
        return self._scorer.scored(images, texts, progress)


class _Plan(NamedTuple):
    """One search: the arguments of `best_hits`, in order."""

    stream: Iterator[Scored]
    images: Gallery
    texts: Gallery | Tokens
    searched: Gallery
    k: int
    min_score: float
    shortlist: Shortlist


def _sides(queries: Gallery | Tokens, searched: Gallery) -> tuple[Gallery, Gallery | Tokens]:
    """(images, texts)."""
    images, texts = (queries, searched) if searched.kind == "text" else (searched, queries)
    assert isinstance(images, Gallery)
    return images, texts
