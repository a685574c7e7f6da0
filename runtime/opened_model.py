"""An opened model: bundle or checkpoint to states. `Retriever` adds searching and scoring."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .._progress import progress_bar
from ..errors import InputError
from .arguments import check_is_backend, check_is_gallery, check_is_path
from .backends.contract import Backend
from .backends.registry import open_backend
from .choices import BackendName, Device, Precision
from .encoding import Encoded, encode_gallery, encode_images, encode_tokens, loaded
from .galleries.gallery import Dtype, Gallery, Items
from .index import IndexOptions, index_items, source_of
from .inputs import check_features, check_gallery, image_lengths, tokenize
from .lists import Caption

_log = logging.getLogger(__name__)


class OpenedModel:
    """Encodes images and captions into galleries, in memory or on disk."""

    # tile_bytes is for Retriever, which scores; `open` makes either.
    def __init__(self, backend: Backend, tile_bytes: int | None = None) -> None:
        check_is_backend(backend)
        self.backend = backend
        self._opened: dict[str, Any] | None = None  # what `open` was called with
        self._process = os.getpid()

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
        _log.info("opened %s: backend %s, precision %s, device %s", path, opened.name, opened.precision, opened.device)
        return retriever

    @property
    def path(self) -> Path | None:
        """The bundle or checkpoint that `open` opened; None for a Retriever made of a backend."""
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

        features (N, R, F) float of any width, may be memory-mapped: it is read in chunks; lengths (N,) int, regions
        of each image (all R by default), rows beyond are ignored; ids (N,) names; `folder`: existing folder for the
        states, which are then memory-mapped. `Gallery.save` keeps the gallery; `Gallery.create` makes large ones.
        Raises DataError, naming the image, for another feature dimension, too many regions, NaN, infinity, or a region
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

        A caption longer than the model's limit is cut, words that the vocabulary lacks are scored as unknown ones; both
        with a CaanWarning, which names the words of ten captions. Raises DataError, naming the caption, for one that is
        empty, not UTF-8, or neither text nor tokens.
        """
        self._check_process()
        tokens, lengths = tokenize(captions, self.backend.model.vocabulary, self.backend.model.limits["words"])
        with progress_bar(len(tokens), "encoding captions", "caption", progress) as bar:
            encoded = _counted(bar, encode_tokens(self.backend, tokens, lengths))
            return encode_gallery(self.backend, "text", lengths, encoded, ids, folder, self._bundle)

    def load(self, gallery: Gallery) -> Gallery:
        """The same gallery in memory, as the scorer takes it: nothing is read, widened or computed again per query.

        For (rows, S) states of `backend.state_dtype`; deleted items stay deleted. Raises as `search`.
        """
        self._check_process()
        check_is_gallery(gallery)
        check_gallery(gallery, gallery.kind, self.backend)
        return loaded(self.backend, gallery)

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
        """What `Gallery.create` and `Gallery.append` call; their docstrings say what it does."""
        self._check_process()
        source = source_of(self, items, lengths, stacklevel=5)
        options = IndexOptions(dtype, compact, overwrite, append, progress)
        return index_items(self, self.path, source, Path(folder), ids, options)

    @property
    def _bundle(self) -> str | None:
        return None if self.path is None else str(self.path)

    def _check_process(self) -> None:
        """Raise InputError in a forked process for what does not work there, instead of waiting forever."""
        what = self.backend.process_bound
        if what and self._process != os.getpid():
            raise InputError(f"this process was forked and can't use {what} as its parent does; open the model again")


def _counted(bar: Any, encoded: Iterable[Encoded]) -> Iterator[Encoded]:
    for some in encoded:
        yield some
        bar.update(len(some[0]))


def _open_again(cls: type[OpenedModel], opened: dict[str, Any]) -> OpenedModel:
    return cls.open(**opened)
