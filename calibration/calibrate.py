"""A bundle and a data set → the range of every activation that an INT8 matrix product reads."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from .._progress import progress_bar
from ..bundle import GRAPHS, VOCABULARY, Bundle, graph_file
from ..data.scan import ScanSplit, content_digest
from ..data.vocabulary import Vocabulary
from ..errors import CaanWarning, DataError
from ..tiling import DEFAULT_TILE_BYTES, tile_size
from . import cache
from .observe import Batch, Feed, activation_inputs, observe
from .pairs import Sample, SampleSize, draw_sample, equal_lengths, tiles
from .ranges import check_method, find_ranges, passes

_IMAGES_PER_FEED = 32
_CHECKED_IMAGES = 64


@dataclass(frozen=True, eq=False)
class Calibration:
    """The result of a calibration, and its basis."""

    ranges: dict[str, dict[str, float]]  # graph → tensor → the |x| that maps to 127
    held_out: NDArray[np.int64]  # images not used; indices into the data set
    record: dict[str, Any]  # for the manifest; JSON-serializable


def calibrate(
    bundle: Bundle,
    dataset: ScanSplit,
    *,
    method: str,
    seed: int = 0,
    progress: bool = False,
    size: SampleSize | None = None,
) -> Calibration:
    """Find the ranges of all MatMul inputs of the bundle's FP32 graphs on pairs drawn from a data set.

    method: one of `ranges.METHODS`; seed: of the sample, 0 or more; size: of the sample. Ranges for the same graphs,
    data, method, seed and size are read from the cache if it has them, and stored there otherwise. Raises InputError
    for an unknown method; DataError for features of a dimension other than the model's, with too many regions or with
    NaN or infinity (naming the image), and for too little data; BundleError if the bundle is replaced meanwhile.
    """
    check_method(method)
    size = size or SampleSize()
    _check_shape(bundle, dataset)
    sample = draw_sample(dataset, seed, size)
    _check_values(dataset, progress)
    basis: dict[str, Any] = {
        "method": method,
        "seed": seed,
        "data_sha256": content_digest(dataset.features, dataset.captions, dataset.lengths),
        "graphs_sha256": {name: bundle.hash_of(graph_file(name, "fp32")) for name in GRAPHS},
    }
    key = {
        **basis,
        "size": [size.images, size.pairs],
        "drawn": hashlib.sha256(sample.images.tobytes() + sample.captions.tobytes()).hexdigest(),
        # These determine a caption's tokens.
        "vocabulary": bundle.hash_of(VOCABULARY),
        "words": bundle.manifest["limits"]["words"],
    }
    ranges = cache.load(key)
    if ranges is None:
        ranges = _Calibrator(bundle, dataset, sample).ranges(method, progress)
        cache.store(key, ranges)
    record = {
        "data": dataset.folder.resolve().name,
        "split": dataset.split,
        "images": len(sample.images),
        "captions": len(sample.captions),
        "pairs": sample.pairs,
        "positives": sample.positives,
        "held_out": len(sample.held_out),
        **basis,
    }
    return Calibration(ranges, sample.held_out, record)


class _Calibrator:
    """Runs the FP32 graphs on a sample: both encoders, then the scorer on their states."""

    def __init__(self, bundle: Bundle, dataset: ScanSplit, sample: Sample) -> None:
        self.graphs = {name: _load(bundle, name) for name in GRAPHS}
        self.features = np.ascontiguousarray(dataset.features[sample.images], dtype=np.float32)  # (n, R, F)
        self.regions = np.full(len(self.features), self.features.shape[1], np.int64)  # (n,)
        if dataset.lengths is not None:
            self.regions = dataset.lengths[sample.images]
        self.tokens = _tokenize(bundle, [dataset.captions[caption] for caption in sample.captions])
        self.lengths = np.array([len(ids) for ids in self.tokens], np.int64)  # (m,)
        tile = tile_size(
            self.features.shape[1], int(self.lengths.max()), bundle.config["attention_dim"], DEFAULT_TILE_BYTES
        )
        self.tiles = list(tiles(self.regions, self.lengths, tile))
        self.image_states: dict[int, NDArray[np.floating]] = {}  # image's position → (R, 2D+3d)
        outputs = self._outputs("image_encoder", self._image_feeds)
        for images, states in zip(self._image_batches(), outputs, strict=True):
            self.image_states.update(zip(images.tolist(), states, strict=True))
        self.text_states: dict[int, NDArray[np.floating]] = {}  # caption's position → (T, D+3d)
        outputs = self._outputs("text_encoder", self._text_feeds)
        for group, states in zip(equal_lengths(self.lengths), outputs, strict=True):
            self.text_states.update(zip(group.tolist(), states, strict=True))

    def ranges(self, method: str, progress: bool) -> dict[str, dict[str, float]]:
        """Graph → tensor → range."""
        feeds = dict(zip(GRAPHS, (self._image_feeds, self._text_feeds, self._pair_feeds), strict=True))
        runs = len(list(self._image_batches())) + len(equal_lengths(self.lengths)) + len(self.tiles)
        with progress_bar(passes(method) * runs, "calibrating", "batch", progress) as bar:
            return {name: self._ranges_of(name, feeds[name], method, bar.update) for name in GRAPHS}

    def _ranges_of(
        self, name: str, feeds: Callable[[], Iterator[Feed]], method: str, step: Callable[[], object]
    ) -> dict[str, float]:
        graph = self.graphs[name]
        tensors = list(dict.fromkeys(tensor for inputs in activation_inputs(graph).values() for tensor in inputs))

        def batches() -> Iterator[Batch]:
            for batch in observe(graph, tensors, feeds()):
                yield batch
                step()

        return find_ranges(batches, method)

    def _outputs(self, name: str, feeds: Callable[[], Iterator[Feed]]) -> Iterator[NDArray[np.floating]]:
        graph = self.graphs[name]
        output = graph.graph.output[0].name
        return (batch[output] for batch in observe(graph, [output], feeds()))

    def _image_batches(self) -> Iterator[NDArray[np.int64]]:
        """Positions of images with the same number of regions."""
        for group in equal_lengths(self.regions):
            for start in range(0, len(group), _IMAGES_PER_FEED):
                yield group[start : start + _IMAGES_PER_FEED]

    def _image_feeds(self) -> Iterator[Feed]:
        for images in self._image_batches():
            yield {"features": self.features[images, : self.regions[images[0]]]}

    def _text_feeds(self) -> Iterator[Feed]:
        for group in equal_lengths(self.lengths):
            yield {
                "tokens": np.array([self.tokens[caption] for caption in group], np.int64),
                "text_lengths": self.lengths[group],
            }

    def _pair_feeds(self) -> Iterator[Feed]:
        for images, captions in self.tiles:
            yield {
                "image_states": np.stack([self.image_states[image] for image in images.tolist()]),
                "image_lengths": self.regions[images],
                "text_states": np.stack([self.text_states[caption] for caption in captions.tolist()]),
                "text_lengths": self.lengths[captions],
            }


def _load(bundle: Bundle, name: str) -> onnx.ModelProto:
    # Checked against its hash: else another model's ranges could be cached under this key.
    return onnx.load_from_string(bundle.content(graph_file(name, "fp32")))


def _tokenize(bundle: Bundle, captions: list[str]) -> list[list[int]]:
    """Token ids of each caption, cut at the model's limit as in the runtime."""
    vocabulary = Vocabulary.load(bundle.folder / VOCABULARY)
    limit = bundle.manifest["limits"]["words"]
    tokens = [vocabulary.encode(caption) for caption in captions]
    cut = sum(len(ids) > limit for ids in tokens)
    if cut:
        warnings.warn(
            f"{cut} of the calibration captions are longer than {limit - 2} words; further words were dropped",
            CaanWarning,
            stacklevel=2,
        )
    return [ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]] for ids in tokens]


def _check_shape(bundle: Bundle, dataset: ScanSplit) -> None:
    name = f"{dataset.folder} ({dataset.split})"
    regions, dimension = dataset.features.shape[1:]
    expected, limit = bundle.config["region_dim"], bundle.manifest["limits"]["regions"]
    if dimension != expected:
        raise DataError(
            f"{name} has features of dimension {dimension}, the model was trained on {expected}; calibrate on features"
            " of the same extractor"
        )
    if regions > limit:
        raise DataError(f"{name} has {regions} regions per image, the model takes 1 to {limit}")


def _check_values(dataset: ScanSplit, progress: bool) -> None:
    """Check all images, not only the sample: the accuracy gate will run on the held-out ones."""
    features = dataset.features
    with progress_bar(len(features), "reading features", "image", progress) as bar:
        for start in range(0, len(features), _CHECKED_IMAGES):
            with np.errstate(over="ignore"):
                chunk = features[start : start + _CHECKED_IMAGES].astype(np.float32)  # as the graphs see them
            wrong: NDArray[np.bool_] = np.logical_not(np.isfinite(chunk).all(axis=2))  # (images, R)
            if dataset.lengths is not None:
                wrong &= np.arange(chunk.shape[1]) < dataset.lengths[start : start + len(chunk), None]
            finite = ~wrong.any(axis=1)  # (images,)
            if not finite.all():
                image = start + int(finite.argmin())
                name = f" ({dataset.ids[image]})" if dataset.ids else ""
                raise DataError(
                    f"image {image}{name} of {dataset.folder} ({dataset.split}) has features that are NaN or infinite;"
                    " extract them again"
                )
            bar.update(len(chunk))
