"""Galleries as folders: encode into one, find the bundle that one was made with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_folder
from ..errors import BundleError
from .gallery import Gallery
from .retriever import Retriever


def index_images(
    retriever: Retriever,
    bundle: Path,
    features: NDArray[np.floating],
    ids: Sequence[str] | None,
    target: Path,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Gallery:
    """Encode features (N, R, F) into the gallery folder `target` and open it, memory-mapped.

    Written beside the target and moved into place: an interrupted run leaves nothing. Raises DataError as
    `Retriever.encode_images`, OutputError if the target exists or can't be written.
    """
    with atomic_folder(target, overwrite=overwrite) as folder:
        gallery = retriever.encode_images(features, ids=ids, folder=folder, progress=progress)
        replace(gallery, bundle=os.path.relpath(bundle.resolve(), target.resolve())).save(folder)
    return Gallery.open(target)


def bundle_of(gallery: Gallery, folder: Path) -> Path:
    """The bundle that made a gallery, where it was then. Raises BundleError if it is no longer there."""
    path = Path(os.path.normpath(folder.resolve() / (gallery.bundle or "")))
    if gallery.bundle is None or not path.is_dir():
        raise BundleError(f"the bundle of {folder} is no longer at {path}; name it with --bundle")
    return path
