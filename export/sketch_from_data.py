"""A bundle's sketch from a data set: calibration items, held-out queries, projection.

The mathematics: docs/large_galleries.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..accuracy.workload import Workload, check_dimension, split_workload, spread
from ..bundle import Bundle, change_bundle
from ..data.scan import ScanSplit
from ..errors import DataError, InputError, UnknownWordWarning
from ..runtime import Gallery, Retriever
from ..runtime.inputs import tokenize
from ..runtime.sketches.curve import choose
from ..runtime.sketches.sketcher import encoded, pool
from ..sketch import COLUMNS_UNIT, MOST_COLUMNS, Sketch

# Calibration items of each kind: with more, recall rises by tenths of a percent, and sketching costs in proportion.
CALIBRATION, COLUMNS = 8, 64
_HELD_OUT, _FITTED = 200, 1000  # images at most
FEWEST_IMAGES = 100  # for a sketch with the defaults to mean something
_FITTED_CAPTIONS = 2  # of each of these images
# A sketch is weak if searches with this recall need more than this share of a gallery's items.
_RECALL, _WEAK = 0.99, 0.5
_MEASURED = 1000  # images
# Largest projected number of the fitted items → the largest integer, with room for others.
_ROOM = 1.1
# Regularization of a covariance, as a share of its mean variance.
_RIDGE = 1e-3


@dataclass(frozen=True)
class SketchOptions:
    """Columns of a sketch, calibration items of each kind, and the seed that draws them."""

    columns: int = COLUMNS
    calibration: int = CALIBRATION
    seed: int = 0


@dataclass(frozen=True)
class SketchReport:
    """What was written, and its entry in the manifest."""

    bundle: Bundle
    record: dict[str, Any]


def sketch_bundle(
    folder: Path,
    calibration: ScanSplit,
    measured: ScanSplit | None,
    options: SketchOptions = SketchOptions(),
    progress: Callable[[str], None] = lambda message: None,
) -> SketchReport:
    """Write a bundle's sketch, or replace it.

    calibration: a split the model may have seen, such as train; measured: another one, on which recall is measured.
    Raises DataError for too few images or features of another dimension, InputError for impossible options, BundleError
    as `open_bundle` and for a bundle without the expander graph, OutputError if the bundle can't be written.
    """
    _check(options)
    retriever = Retriever.open(folder, device="cpu")
    check_dimension(calibration.features, retriever.backend.model.config, calibration.folder)
    progress("pooling items with their mean attention")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordWarning)  # they are unknown to every search, too
        sketch, record = _sketch(retriever, split_workload(calibration), options)
    record |= {"data": calibration.folder.resolve().name, "split": calibration.split, "seed": options.seed}

    def write(copy: Path, manifest: dict[str, Any]) -> None:
        sketch.save(copy)
        manifest["sketch"] = record | {"status": "ungated"}

    bundle = change_bundle(folder, write)
    if measured is None:
        return SketchReport(bundle, bundle.manifest["sketch"])
    progress("measuring recall")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownWordWarning)
        recall = _measure(Retriever.open(folder, device="cpu"), split_workload(measured, _MEASURED))
    is_weak = any(entry["share"] is None or entry["share"] > _WEAK for entry in recall.values())

    def add(copy: Path, manifest: dict[str, Any]) -> None:
        manifest["sketch"] |= {"recall": recall, "status": "weak" if is_weak else "passed"}

    bundle = change_bundle(folder, add)
    return SketchReport(bundle, bundle.manifest["sketch"])


def _check(options: SketchOptions) -> None:
    if not 0 < options.columns <= MOST_COLUMNS or options.columns % COLUMNS_UNIT:
        raise InputError(
            f"a sketch has {COLUMNS_UNIT} to {MOST_COLUMNS} columns, a multiple of {COLUMNS_UNIT}, not"
            f" {options.columns}"
        )
    if options.calibration < 1:
        raise InputError(f"at least one calibration item is needed, not {options.calibration}")


def _sketch(retriever: Retriever, data: Workload, options: SketchOptions) -> tuple[Sketch, dict[str, Any]]:
    backend, m = retriever.backend, options.calibration
    images = len(data.features)
    held = min(_HELD_OUT, images // 4)
    fitted = min(_FITTED, images - 2 * m - held)
    if held < 1 or fitted < 2:
        raise DataError(
            f"a sketch with {m} calibration items needs more than {images} images; name a larger split with"
            " --calibration-split, or fewer with --calibration"
        )
    # An image's captions are in the same part as the image, or in none: no item is sketched with its own counterpart.
    random = np.random.default_rng(options.seed)
    order = random.permutation(images)
    parts = np.split(order, np.cumsum([m, m, held, fitted]))[:4]
    first_captions = [_captions_of(data, part, 1, random) for part in parts]
    calibration, _, held_out, rest = parts
    shown = np.concatenate([calibration, held_out])
    gallery = _images(retriever, data, shown)
    tokens, token_lengths = tokenize(
        [data.captions[i] for i in [*first_captions[1], *first_captions[2]]],
        backend.model.vocabulary,
        backend.model.limits["words"],
    )
    dim = backend.model.config["embed_dim"]
    ends = int(gallery.offsets[m])
    calibration_images = replace(
        gallery, states=gallery.states[:ends], offsets=gallery.offsets[: m + 1], check=None, origin=None
    )
    calibration_captions = encoded(backend, (tokens[:m], token_lengths[:m]))
    pooled_images = pool(backend, _images(retriever, data, np.sort(rest)), calibration_captions)
    captions = _captions_of(data, np.sort(rest), _FITTED_CAPTIONS, random)
    fit_tokens = tokenize([data.captions[i] for i in captions], backend.model.vocabulary, backend.model.limits["words"])
    pooled_captions = pool(backend, encoded(backend, fit_tokens), calibration_images)
    projection, steps = _fit(pooled_images, pooled_captions, options.columns)
    sketch = Sketch(
        regions=np.ascontiguousarray(gallery.states[:, :dim], dtype=np.float16),
        region_lengths=gallery.lengths.astype(np.int32),
        tokens=np.concatenate([np.array(ids, np.int32) for ids in tokens]),
        token_lengths=token_lengths.astype(np.int32),
        projection=projection,
        steps=steps,
        calibration=m,
    )
    record = {"columns": options.columns, "calibration": m, "images": len(shown), "captions": len(tokens)}
    return sketch, record


def _images(retriever: Retriever, data: Workload, numbers: NDArray[np.int64]) -> Gallery:
    """Some images, in this order, as a gallery in memory."""
    return retriever.encode_images(np.stack([data.features[i] for i in numbers.tolist()]), data.lengths_of(numbers))


def _captions_of(data: Workload, images: NDArray[np.int64], count: int, random: np.random.Generator) -> list[int]:
    """Up to `count` captions of each image."""
    assert data.image_of_caption is not None
    order = np.argsort(data.image_of_caption, kind="stable")
    edges = np.searchsorted(data.image_of_caption[order], [images, images + 1])
    chosen: list[int] = []
    for first, end in edges.T.tolist():
        own = order[first:end]
        chosen += random.permutation(own)[:count].tolist()
    return chosen


def _fit(
    images: NDArray[np.float32], captions: NDArray[np.float32], columns: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Projections (2, D, columns) that keep the products of pooled images and captions best, and steps (2, columns).

    With covariances C and C' of both sides, the best product of `columns` columns in the mean square over independent
    pairs is the truncated singular value decomposition of C^½ C'^½ (reduced-rank regression).
    """
    root, inverse = _roots(images)
    other_root, other_inverse = _roots(captions)
    left, values, right = np.linalg.svd(root @ other_root)
    kept = min(columns, len(values))
    scale = np.sqrt(values[:kept])
    projection = np.zeros((2, images.shape[1], columns), np.float32)
    projection[0, :, :kept] = inverse @ left[:, :kept] * scale
    projection[1, :, :kept] = other_inverse @ right[:kept].T * scale
    largest = np.stack([np.abs(images @ projection[0]).max(axis=0), np.abs(captions @ projection[1]).max(axis=0)])
    steps = np.where(largest > 0, largest * _ROOM / 127, 1).astype(np.float32)
    return projection, steps


def _roots(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Square root of the regularized second moments of vectors (n, D), and its inverse."""
    rows = vectors.astype(np.float64)
    moments = rows.T @ rows / len(rows)
    dim = len(moments)
    moments += (_RIDGE * np.trace(moments) / dim + np.finfo(np.float32).tiny) * np.eye(dim)
    values, axes = np.linalg.eigh(moments)
    roots = np.sqrt(values)
    return (axes * roots) @ axes.T, (axes / roots) @ axes.T


def _measure(retriever: Retriever, data: Workload) -> dict[str, Any]:
    """Recall in both directions: {"image": …, "text": …}, by what is searched."""
    captions = spread(np.arange(len(data.captions)), 5 * _MEASURED).tolist()
    galleries = {
        "image": retriever.encode_images(data.features, data.lengths),
        "text": retriever.encode_captions([data.captions[i] for i in captions]),
    }
    result = {}
    for kind, gallery in galleries.items():
        sketches = retriever.sketch(gallery).sketches
        assert sketches is not None and sketches.curve is not None
        k = min(10, sketches.curve.k[-1])
        chosen = choose(sketches.curve, len(gallery), k, _RECALL)
        result[kind] = {
            "items": len(gallery),
            "queries": sketches.curve.queries,
            "k": k,
            "recall": _RECALL,
            "candidates": chosen.candidates,
            "share": None if chosen.candidates is None else round(chosen.candidates / len(gallery), 4),
        }
    return result
