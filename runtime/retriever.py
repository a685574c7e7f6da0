"""The public interface: open a model, encode, search, score."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..bundle import state_widths
from ..data.vocabulary import UNKNOWN
from ..errors import BundleError, CaanWarning, DataError, InputError, OutputError
from .backend import Backend, open_backend
from .gallery import Gallery, new_states, offsets_of
from .tiling import DEFAULT_TILE_BYTES, TileSize, chunks_by_length, tile_size, widen

Caption = str | Sequence[str]

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

    def __init__(self, backend: Backend, tile_bytes: int = DEFAULT_TILE_BYTES) -> None:
        self.backend = backend
        self.tile_bytes = tile_bytes

    @classmethod
    def open(
        cls,
        path: str | Path,
        backend: str = "auto",
        precision: str = "fp32",
        *,
        device: str = "auto",
        threads: int | None = None,
        tile_bytes: int = DEFAULT_TILE_BYTES,
    ) -> Retriever:
        """Open a bundle; for `backend="torch"`, a checkpoint.

        backend: onnxruntime, torch or auto; precision: one that the bundle has; device: cpu, cuda or auto;
        threads: of one scorer call, all cores by default; tile_bytes: memory for one tile's intermediates.

        Raises InputError for an unknown backend, precision or device; BundleError or CheckpointError for a file that
        can't be used; MissingError for a package or device that is not there.
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
        self._check_features(features)
        regions = self._image_lengths(features, lengths)
        gallery = self._new_gallery("image", regions, ids, len(features), folder)
        with _progress_bar(len(features), "encoding images", "image", progress) as bar:
            for start in range(0, len(features), _IMAGES_PER_CHUNK):
                chunk = np.ascontiguousarray(features[start : start + _IMAGES_PER_CHUNK], dtype=np.float32)
                items = np.arange(start, start + len(chunk))
                self._store(gallery, items, self.backend.encode_images(chunk))
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
        tokens, lengths = self._tokenize(captions)
        gallery = self._new_gallery("text", lengths, ids, len(captions), folder)
        with _progress_bar(len(tokens), "encoding captions", "caption", progress) as bar:
            for items, states in self._encode_in_chunks(tokens, lengths):
                self._store(gallery, items, states)
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
            self._check_known(query)
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
        scores = np.empty((len(gallery), len(captions)), np.float32)  # (images, captions)
        with _progress_bar(scores.size, "scoring", "pair", progress) as bar:
            for items, states, lengths in self._caption_chunks(captions):
                for images, image_states, image_lengths, tile in self._image_tiles(gallery, states, len(items)):
                    for start in range(0, len(items), tile.captions):
                        part = slice(start, start + tile.captions)
                        longest = int(lengths[part].max())
                        block = self.backend.score(
                            image_states,
                            image_lengths,
                            np.ascontiguousarray(states[part, :longest]),
                            lengths[part],
                        )
                        scores[np.ix_(images, items[part])] = block
                        bar.update(block.size)
        return scores

    def score_dataset(
        self, features: NDArray[np.floating], captions: Sequence[Caption], *, progress: bool = False
    ) -> NDArray[np.float32]:
        """Scores (N, M) of features (N, R, F) with captions; image states go to a temporary memory-mapped file.

        Raises DataError as `encode_images` and `encode_captions`, OutputError if there is no room for the states.
        """
        try:
            with tempfile.TemporaryDirectory(prefix="caan-states-") as folder:
                gallery = self.encode_images(features, folder=Path(folder), progress=progress)
                return self.score_matrix(gallery, captions, progress=progress)
        except OSError as error:
            raise OutputError(
                f"no room for the images' states in the temporary folder ({error.strerror}); free some space, or set"
                " TMPDIR to another folder"
            ) from error

    def _caption_chunks(
        self, captions: Sequence[Caption] | Gallery
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]]:
        """(indices, padded states, lengths) of captions of similar length."""
        if isinstance(captions, Gallery):
            self._check_gallery(captions, "text")
            for items in chunks_by_length(captions.lengths, _CAPTIONS_PER_CHUNK):
                yield items, *captions.gather(items)
            return
        tokens, lengths = self._tokenize(captions)
        for items, states in self._encode_in_chunks(tokens, lengths):
            yield items, states, lengths[items]

    def _image_tiles(
        self, gallery: Gallery, text_states: NDArray[np.float32], captions: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], TileSize]]:
        regions = int(gallery.lengths.max())
        tile = tile_size(regions, text_states.shape[1], int(self.backend.config["attention_dim"]), self.tile_bytes)
        tile = widen(tile, len(gallery), captions)
        for images in chunks_by_length(gallery.lengths, tile.images):
            yield images, *gallery.gather(images), tile

    def _encode_in_chunks(
        self, tokens: list[list[int]], lengths: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(indices, padded states) of captions of similar length."""
        for items in chunks_by_length(lengths, _CAPTIONS_PER_CHUNK):
            padded = np.zeros((len(items), int(lengths[items].max())), np.int64)
            for row, item in zip(padded, items, strict=True):
                row[: lengths[item]] = tokens[item]
            yield items, self.backend.encode_captions(padded, lengths[items])

    def _tokenize(self, captions: Sequence[Caption]) -> tuple[list[list[int]], NDArray[np.int64]]:
        """Token ids of each caption, cut to the model's limit, and their number."""
        if isinstance(captions, str):
            raise InputError("captions must be a list of captions, not one string; write [caption]")
        if len(captions) == 0:
            raise DataError("there is no caption; give at least one")
        limit, result, cut, unknown = self.backend.limits["words"], [], [], []
        for number, caption in enumerate(captions):
            try:
                ids = self.backend.vocabulary.encode(caption)
            except DataError as error:
                raise DataError(f"caption {number}: {error}") from error
            if len(ids) > limit:
                cut.append(number)
                ids = [*ids[: limit - 1], ids[-1]]
            if all(i == UNKNOWN for i in ids[1:-1]):
                unknown.append(number)
            result.append(ids)
        if cut:
            self._warn(f"{_count(cut)} longer than {limit - 2} words; the words beyond were dropped")
        if unknown:
            self._warn(f"{_count(unknown)} without any word of the vocabulary; the scores mean little")
        return result, np.array([len(ids) for ids in result], np.int64)

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, CaanWarning, stacklevel=4)

    def _check_known(self, caption: Caption) -> None:
        vocabulary = self.backend.vocabulary
        if all(number == UNKNOWN for number in vocabulary.encode(caption)[1:-1]):
            shown = caption if isinstance(caption, str) else " ".join(caption)
            raise DataError(f"no word of '{shown[:60]}' is in the model's vocabulary; try other words")

    def _check_features(self, features: NDArray[np.floating]) -> None:
        expected, limit = self.backend.config["region_dim"], self.backend.limits["regions"]
        if not isinstance(features, np.ndarray) or features.ndim != 3 or not np.issubdtype(features.dtype, np.floating):
            shape = getattr(features, "shape", None)
            raise DataError(
                f"features must be a float array (images, regions, {expected}), not {shape or type(features)}"
            )
        if len(features) == 0:
            raise DataError("there is no image; give at least one")
        if features.shape[2] != expected:
            raise DataError(f"features have dimension {features.shape[2]}, the model was trained on {expected}")
        if not 1 <= features.shape[1] <= limit:
            raise DataError(f"features have {features.shape[1]} regions per image, the model takes 1 to {limit}")

    @staticmethod
    def _image_lengths(features: NDArray[np.floating], lengths: Any) -> NDArray[np.int64]:
        images, regions = features.shape[:2]
        if lengths is None:
            return np.full(images, regions, np.int64)
        result = np.asarray(lengths)
        if result.shape != (images,) or not np.issubdtype(result.dtype, np.integer):
            raise DataError(f"lengths must be {images} integers, one per image, not {result.dtype} {result.shape}")
        if result.min() < 1 or result.max() > regions:
            raise DataError(
                f"lengths must be 1 to {regions}, the regions in the features, not {result.min()} to {result.max()}"
            )
        return result.astype(np.int64)

    def _check_gallery(self, gallery: Gallery, kind: str) -> None:
        if gallery.kind != kind:
            raise DataError(f"this gallery holds {gallery.kind} states, {kind} states are needed here")
        if gallery.encoder != self.backend.encoders[kind]:
            raise BundleError("this gallery was made with another model or precision; encode it again: caan index")

    def _new_gallery(
        self,
        kind: Any,
        lengths: NDArray[np.int64],
        ids: Sequence[str] | None,
        items: int,
        folder: Path | None,
    ) -> Gallery:
        if ids is not None and len(ids) != items:
            raise DataError(f"{len(ids)} ids don't fit {items} items; give one name per item")
        offsets = offsets_of(lengths)
        states = new_states(int(offsets[-1]), state_widths(self.backend.config)[kind], folder)
        return Gallery(kind, self.backend.encoders[kind], states, offsets, None if ids is None else list(ids))

    @staticmethod
    def _store(gallery: Gallery, items: NDArray[np.int64], states: NDArray[np.float32]) -> None:
        """Put padded states (n, L, S) of some items into their places."""
        for item, rows in zip(items, states, strict=True):
            start, end = gallery.offsets[item], gallery.offsets[item + 1]
            valid = rows[: end - start]
            if not np.isfinite(valid).all():
                name = f" ({gallery.ids[item]})" if gallery.ids else ""
                what = "its features hold NaN, infinity or huge values; extract them again"
                raise DataError(f"{gallery.kind} {item}{name} can't be encoded: {what}")
            gallery.states[start:end] = valid


def _progress_bar(total: int, name: str, unit: str, shown: bool) -> tqdm[NoReturn]:
    """A bar on standard error, and none where that is no terminal."""
    return tqdm(total=total, desc=name, unit=unit, unit_scale=True, disable=None if shown else True)


def _count(numbers: list[int]) -> str:
    shown = ", ".join(str(n) for n in numbers[:3]) + (", …" if len(numbers) > 3 else "")
    return f"caption {shown} is" if len(numbers) == 1 else f"{len(numbers)} captions ({shown}) are"
