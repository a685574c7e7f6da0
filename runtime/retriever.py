"""The public interface: open a model, encode, search, score."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._files import temporary_folder
from .._progress import progress_bar
from ..bundle import state_widths
from ..errors import BundleError, DataError
from ..tiling import DEFAULT_TILE_BYTES, GPU_TILE_BYTES, TileSize, chunks_by_length, fit_tile, tile_size
from .backend import Backend, Tile, open_backend
from .gallery import Gallery, new_states, offsets_of
from .inputs import Caption as Caption
from .inputs import Tokens, check_features, check_known, image_lengths, tokenize

# Items per encoder call. The text encoder's recurrence gains from a wide batch; states of one chunk stay small.
_IMAGES_PER_CHUNK, _CAPTIONS_PER_CHUNK = 32, 128


@dataclass(frozen=True)
class Hit:
    """One search result: the item's position in the gallery and its score."""

    index: int
    score: float


class Retriever:
    """Encodes images and captions, and scores every pair with CAAN's cross-attention scorer.

    A Retriever may be used from several threads; calls don't share state.
    """

    def __init__(self, backend: Backend, tile_bytes: int | None = None) -> None:
        self.backend = backend
        default = DEFAULT_TILE_BYTES if backend.device == "cpu" else GPU_TILE_BYTES
        self.tile_bytes = default if tile_bytes is None else tile_bytes

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
    ) -> Retriever:
        """Open a bundle; for `backend="torch"`, a checkpoint.

        backend: onnxruntime, tensorrt, torch, or auto: tensorrt where the bundle has an engine that was checked on a
        GPU and loads here, else onnxruntime; precision: one that the bundle has; device: cpu, cuda or auto; threads:
        of one scorer call on the CPU, all cores by default; tile_bytes: memory for one tile's intermediates, by
        default 64 MiB on a CPU and 1 GiB on a GPU, an engine's profiles permitting.

        Raises InputError for an unknown backend, precision or device; BundleError or CheckpointError for a file that
        can't be used; MissingError for a package or device that is not there. CaanWarning for a precision that missed
        its accuracy gate.
        """
        return cls(open_backend(backend, Path(path), precision, device, threads), tile_bytes)

    def encode_images(
        self,
        features: NDArray[np.floating],
        lengths: NDArray[np.integer] | Sequence[int] | None = None,
        *,
        ids: Sequence[str] | None = None,
        folder: Path | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Encode region features into a gallery.

        features (N, R, F) float of any width, may be memory-mapped: it is read in chunks; lengths (N,) int, regions
        of each image (all R by default), rows beyond are ignored; ids (N,) names; `folder`: existing folder for the
        states, which are then memory-mapped.
        Raises DataError, naming the image, for another feature dimension, too many regions, NaN or infinity.
        """
        check_features(features, self.backend.config["region_dim"], self.backend.limits["regions"])
        regions = image_lengths(features, lengths)
        gallery, states = self._new_gallery("image", regions, ids, len(features), folder)
        with progress_bar(len(features), "encoding images", "image", progress) as bar:
            for start in range(0, len(features), _IMAGES_PER_CHUNK):
                chunk = np.ascontiguousarray(features[start : start + _IMAGES_PER_CHUNK], dtype=np.float32)
                items = np.arange(start, start + len(chunk))
                self._store(gallery, states, items, self.backend.encode_images(chunk))
                bar.update(len(chunk))
        return gallery

    def encode_captions(
        self,
        captions: Sequence[Caption],
        *,
        ids: Sequence[str] | None = None,
        folder: Path | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Encode captions, each text or a list of tokens, into a gallery.

        A caption longer than the model's limit is cut, one without any known word is scored as unknown words; both
        with a CaanWarning. Raises DataError, naming the caption, for one that is empty or not UTF-8.
        """
        tokens, lengths = tokenize(captions, self.backend.vocabulary, self.backend.limits["words"])
        gallery, states = self._new_gallery("text", lengths, ids, len(captions), folder)
        with progress_bar(len(tokens), "encoding captions", "caption", progress) as bar:
            for items, encoded in self._encode_in_chunks(tokens, lengths):
                self._store(gallery, states, items, encoded)
                bar.update(len(items))
        return gallery

    def search(self, query: Caption | NDArray[np.floating], gallery: Gallery, k: int = 10) -> list[Hit]:
        """The k best items of a gallery, best first; equal scores in the gallery's order.

        query: a caption (text or tokens) for a gallery of images; region features (R, F) for one of captions.
        Raises DataError for k above the gallery's size, for a caption without a known word, and as encoding does.
        """
        if not 1 <= k <= len(gallery):
            raise DataError(f"k is {k}, the gallery has {len(gallery)} items; ask for 1 to {len(gallery)}")
        if isinstance(query, np.ndarray):
            single = self.encode_images(query[None])
            scores = self.score_matrix(single, gallery)[0]  # (items,)
        else:
            check_known(query, self.backend.vocabulary)
            scores = self.score_matrix(gallery, [query])[:, 0]  # (items,)
        order = np.argsort(-scores, kind="stable")[:k]
        return [Hit(int(index), float(scores[index])) for index in order]

    def score_matrix(
        self, gallery: Gallery, captions: Sequence[Caption] | Gallery, *, progress: bool = False
    ) -> NDArray[np.float32]:
        """Scores of every image of a gallery with every caption, (N, M) float32.

        captions: texts, token lists, or a gallery of captions. Texts are encoded on the way, so their states never
        are in memory all at once. Raises DataError as `encode_captions`, BundleError for another model's gallery.
        """
        self._check_gallery(gallery, "image")
        if isinstance(captions, Gallery):
            self._check_gallery(captions, "text")
            texts: Gallery | Tokens = captions
        else:
            texts = tokenize(captions, self.backend.vocabulary, self.backend.limits["words"])
        scores = np.empty((len(gallery), len(captions)), np.float32)  # (images, captions)
        # The backend may take tiles before it gives the first one's scores: where those go waits here.
        places: deque[tuple[NDArray[np.int64], NDArray[np.int64]]] = deque()

        def tiles() -> Iterator[Tile]:
            for images, items, tile in self._tiles(gallery, texts):
                places.append((images, items))
                yield tile

        with progress_bar(scores.size, "scoring", "pair", progress) as bar:
            for block in self.backend.score_tiles(tiles()):
                images, items = places.popleft()
                scores[np.ix_(images, items)] = block
                bar.update(block.size)
        return scores

    def score_dataset(
        self, features: NDArray[np.floating], captions: Sequence[Caption], *, progress: bool = False
    ) -> NDArray[np.float32]:
        """Scores (N, M) of features (N, R, F) with captions; image states go to a temporary memory-mapped file.

        Raises DataError as `encode_images` and `encode_captions`, OutputError if there is no room for the states.
        """
        with temporary_folder("states", "the images' states") as folder:
            gallery = self.encode_images(features, folder=folder, progress=progress)
            return self.score_matrix(gallery, captions, progress=progress)

    def _tiles(
        self, gallery: Gallery, texts: Gallery | Tokens
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Tile]]:
        """(indices of images, indices of captions, tile) until every image has met every caption."""
        for items, states, lengths in self._caption_chunks(texts):
            size = self._tile_size(gallery, states.shape[1], len(items))
            for images in chunks_by_length(gallery.lengths, size.images):
                image_states, image_lengths = gallery.gather(images)
                for start in range(0, len(items), size.captions):
                    part = slice(start, start + size.captions)
                    longest = int(lengths[part].max())
                    text_states = np.ascontiguousarray(states[part, :longest])
                    yield images, items[part], Tile(image_states, image_lengths, text_states, lengths[part])

    def _caption_chunks(
        self, texts: Gallery | Tokens
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating], NDArray[np.int64]]]:
        """(indices, padded states, lengths) of captions of similar length."""
        if isinstance(texts, Gallery):
            for items in chunks_by_length(texts.lengths, _CAPTIONS_PER_CHUNK):
                yield items, *texts.gather(items)
            return
        tokens, lengths = texts
        for items, states in self._encode_in_chunks(tokens, lengths):
            yield items, states, lengths[items]

    def _tile_size(self, gallery: Gallery, words: int, captions: int) -> TileSize:
        regions = int(gallery.lengths.max())
        size = tile_size(regions, words, int(self.backend.config["attention_dim"]), self.tile_bytes)
        return fit_tile(size, len(gallery), captions, self.backend.tile_limits(regions, words))

    def _encode_in_chunks(
        self, tokens: list[list[int]], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.floating]]]:
        """(indices, padded states) of captions of similar length."""
        for items in chunks_by_length(lengths, _CAPTIONS_PER_CHUNK):
            padded = np.zeros((len(items), int(lengths[items].max())), np.int64)
            for row, item in zip(padded, items, strict=True):
                row[: lengths[item]] = tokens[item]
            yield items, self.backend.encode_captions(padded, lengths[items])

    def _check_gallery(self, gallery: Gallery, kind: str) -> None:
        if gallery.kind != kind:
            raise DataError(f"this gallery holds {gallery.kind} states, {kind} states are needed here")
        if gallery.encoder != self.backend.encoders[kind]:
            raise BundleError("this gallery was made with another model or precision; encode it again: caan index")
        if gallery.states.dtype != self.backend.state_dtype:
            raise BundleError(
                f"this gallery holds {gallery.states.dtype} states, the model's are {self.backend.state_dtype}; encode"
                " it again: caan index"
            )
        part = "regions" if kind == "image" else "words"
        longest, limit = int(gallery.lengths.max()), self.backend.limits[part]
        if longest > limit:
            raise DataError(f"this gallery has {kind}s of {longest} {part}, the backend takes up to {limit}")

    def _new_gallery(
        self,
        kind: Any,
        lengths: NDArray[np.int64],
        ids: Sequence[str] | None,
        items: int,
        folder: Path | None,
    ) -> tuple[Gallery, NDArray[np.floating]]:
        """A gallery, and its states (rows, S) to be filled."""
        if ids is not None and len(ids) != items:
            raise DataError(f"{len(ids)} ids don't fit {items} items; give one name per item")
        offsets = offsets_of(lengths)
        width = state_widths(self.backend.config)[kind]
        states = new_states(int(offsets[-1]), width, self.backend.state_dtype, folder)
        names = None if ids is None else list(ids)
        return Gallery(kind, self.backend.encoders[kind], states, offsets, names), states

    @staticmethod
    def _store(
        gallery: Gallery, states: NDArray[np.floating], items: NDArray[np.int64], encoded: NDArray[np.floating]
    ) -> None:
        """Put padded states (n, L, S) of some items into their places."""
        for item, rows in zip(items, encoded, strict=True):
            start, end = gallery.offsets[item], gallery.offsets[item + 1]
            valid = rows[: end - start]
            if not np.isfinite(valid).all():
                name = f" ({gallery.ids[item]})" if gallery.ids else ""
                what = "its features hold NaN, infinity or huge values; extract them again"
                raise DataError(f"{gallery.kind} {item}{name} can't be encoded: {what}")
            states[start:end] = valid
