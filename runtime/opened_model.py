"""An opened model, which encodes images and captions. `Retriever` adds search and scoring."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._progress import progress_bar
from ..errors import BundleError, InputError
from .arguments import check_is_backend, check_is_gallery, check_is_path
from .backends.contract import Backend
from .backends.registry import open_backend
from .choices import BackendName, Device, Precision
from .encoding import Encoded, encode_gallery, encode_images, encode_tokens, load_gallery
from .galleries.gallery import Gallery, Items
from .galleries.rows import Dtype
from .index import IndexOptions, index_items, source_of
from .inputs import check_any_left, check_features, check_gallery, image_lengths, tokenize
from .lists import Caption
from .sketches.curve import PAIRS
from .sketches.existing import sketched
from .sketches.kernels import Scanner
from .sketches.sketcher import Sketcher

_log = logging.getLogger(__name__)


class OpenedModel:
    """Encodes images and captions into galleries, in memory or on disk."""

    # tile_bytes is only used by Retriever; `open` serves both classes.
    def __init__(self, backend: Backend, tile_bytes: int | None = None) -> None:
        check_is_backend(backend)
        self.backend = backend
        self._opened: dict[str, Any] | None = None  # the arguments of `open`
        self._process = os.getpid()
        self._own_sketcher: Sketcher | None = None
        self._scanner = Scanner(None)

    @classmethod
    def open(
        cls,
        path: str | Path,
        backend: BackendName = "auto",
        precision: Precision = "fp32",
        *,
        device: Device = "auto",
        threads: int | None = None,
        tile_bytes: int | None = None,
        trust_engines: bool = False,
    ) -> Self:
        """Open a bundle, or a checkpoint with `backend="torch"`.

        backend: native, onnxruntime, tensorrt, triton, torch, or auto: tensorrt if the bundle has an engine that was
        checked on a GPU and loads here; else native if its package is installed and no GPU is used; else
        onnxruntime; precision: one of the bundle's, or bf16 with native and triton; device: cpu, cuda or auto;
        threads: of the scorer on the CPU, all cores by default; tile_bytes: memory for one tile's intermediates. The
        default is the result of `tune` on this machine, else 64 MiB on a CPU and 1 GiB on a GPU, within an engine's
        profiles; native has no intermediates and ignores it; trust_engines: also run engines built elsewhere; engines
        are programs (docs/security.md).

        Raises InputError for an unknown backend, precision or device, and unless `path` is a path; BundleError or
        CheckpointError for an unusable file; MissingError for a missing package or device. CaanWarning for a precision
        that missed its accuracy gate.
        """
        if (threads is not None and threads < 1) or (tile_bytes is not None and tile_bytes < 1):
            raise InputError(f"threads and tile_bytes must be 1 or more, not {threads} and {tile_bytes}")
        check_is_path(path)
        opened = open_backend(backend, Path(path), precision, device, threads, trust_engines=trust_engines)
        retriever = cls(opened, tile_bytes)
        options: dict[str, Any] = {"backend": backend, "precision": precision, "device": device, "threads": threads}
        options |= {"tile_bytes": tile_bytes, "trust_engines": trust_engines}
        retriever._opened = {"path": Path(path).absolute(), **options}
        retriever._scanner = Scanner(threads)
        _log.info("opened %s: backend %s, precision %s, device %s", path, opened.name, opened.precision, opened.device)
        return retriever

    @property
    def path(self) -> Path | None:
        """Path of the opened bundle or checkpoint; None for a Retriever made from a backend."""
        return None if self._opened is None else self._opened["path"]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._opened is None:
            raise InputError(
                "a Retriever that was made from a backend can't be sent to another process; send one that"
                " Retriever.open made, or open it there"
            )
        return _open_again, (type(self), self._opened)

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

        features (N, R, F) float of any width, read in chunks, may be memory-mapped; lengths (N,) int, regions
        of each image (all R by default), further rows are ignored; ids (N,) names; folder: an existing folder for the
        states, which are then memory-mapped. `Gallery.save` keeps the gallery; `Gallery.create` makes large ones.
        Raises DataError, naming the image, for a wrong feature dimension, too many regions, NaN, infinity, or a region
        whose norm is 1e19 or more.
        """
        self._check_process()
        check_features(features, self.backend.model.config["region_dim"], self.backend.model.limits["regions"])
        regions = image_lengths(features, lengths)
        with progress_bar(len(features), "encoding images", "image", progress) as bar:
            encoded = _counted(bar, encode_images(self.backend, features))
            return encode_gallery(self.backend, "image", regions, encoded, ids, folder, self._bundle)

    def encode_captions(
        self,
        captions: Sequence[Caption],
        *,
        ids: Sequence[str] | None = None,
        folder: str | Path | None = None,
        progress: bool = False,
    ) -> Gallery:
        """Encode captions, each text or a list of tokens, into a gallery.

        Captions longer than the model's limit are truncated and words outside the vocabulary count as unknown, both
        with a CaanWarning that names the words of up to ten captions. Raises DataError, naming the caption, if one is
        empty, not UTF-8, or neither text nor tokens.
        """
        self._check_process()
        tokens, lengths = tokenize(captions, self.backend.model.vocabulary, self.backend.model.limits["words"])
        with progress_bar(len(tokens), "encoding captions", "caption", progress) as bar:
            encoded = _counted(bar, encode_tokens(self.backend, tokens, lengths))
            return encode_gallery(self.backend, "text", lengths, encoded, ids, folder, self._bundle)

    def load(self, gallery: Gallery) -> Gallery:
        """The same gallery in memory, as the scorer takes it: queries no longer read, widen or recompute its states.

        Takes memory for (rows, S) states of `backend.state_dtype`; deleted items stay deleted. Raises as `search`.
        """
        self._check_process()
        check_is_gallery(gallery)
        check_gallery(gallery, gallery.kind, self.backend)
        return load_gallery(self.backend, gallery)

    def write_gallery(
        self,
        folder: str | Path,
        items: Items,
        *,
        ids: Sequence[str] | None = None,
        lengths: NDArray[np.integer] | Sequence[int] | None = None,
        dtype: Dtype | None = None,
        compact: bool = False,
        append: bool = False,
        overwrite: bool = False,
        progress: bool = False,
    ) -> Gallery:
        """Implements `Gallery.create` and `Gallery.append`; see their docstrings."""
        self._check_process()
        source = source_of(self, items, lengths, stacklevel=5)
        options = IndexOptions(dtype, compact, overwrite, append, progress)
        return index_items(self, self.path, source, Path(folder), ids, options)

    def sketch(self, gallery: Gallery, *, measure: bool = True, pairs: int = PAIRS, progress: bool = False) -> Gallery:
        """Give a gallery sketches, for searches with `recall` or `candidates`; returns the new gallery.

        One on disk is changed there, one made in memory is not changed. Sketches of this model are kept if it has them.
        measure: also measure the recall that searches reach, scoring about `pairs` pairs exactly.
        Raises BundleError for a bundle without a sketch and for another model's gallery, DataError for a gallery
        without items, OutputError if another process changes the gallery meanwhile.
        """
        self._check_process()
        check_is_gallery(gallery)
        check_gallery(gallery, gallery.kind, self.backend)
        check_any_left(gallery)
        return sketched(self._sketcher(), self._scanner, self.backend, gallery, pairs if measure else None, progress)

    def _sketcher(self) -> Sketcher:
        """Raises BundleError for a bundle without a sketch."""
        if self._own_sketcher is None:
            source = self.backend.model.sketch
            if source is None:
                name = "the model" if self.path is None else str(self.path)
                raise BundleError(f"{name} has no sketch; make one: caan sketch {name} --data DIR")
            self._own_sketcher = Sketcher(self.backend, source)
        return self._own_sketcher

    @property
    def _bundle(self) -> str | None:
        return None if self.path is None else str(self.path)

    def _check_process(self) -> None:
        """Raise InputError in a forked process if the backend would hang there."""
        what = self.backend.process_bound
        if what and self._process != os.getpid():
            raise InputError(f"this process was forked and can't use {what} as its parent does; open the model again")


def _counted(bar: Any, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
    for batch in encoded:
        yield batch
        bar.update(len(batch[0]))


def _open_again(cls: type[OpenedModel], opened: dict[str, Any]) -> OpenedModel:
    return cls.open(**opened)
