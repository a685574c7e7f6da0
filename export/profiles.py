"""Optimisation profiles: the input shapes an engine accepts, and those it is tuned for.

A profile is a range per axis. TensorRT allocates a profile's memory for its largest shape, so with one wide profile
every call would need the memory of the longest caption. Instead, each use of a graph has one profile per bucket of
words:

    scorer          search      1 caption × many images
                    annotation  1 image × many captions
                    matrix      tile × tile
    image_encoder   single, chunk       the runtime's batch sizes
    text_encoder    single, chunk

Any call within the model's limit of words, the data's number of regions and the bucket's tile fits one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from ..bundle import CAPTIONS, GRAPHS, IMAGES, INPUTS, REGIONS, WORDS, state_widths
from ..data.scan import ScanSplit
from ..engines.profiles import Profile, Range, Shapes
from ..errors import InputError
from ..tiling import GPU_TILE_BYTES, tile_size

# Items per encoder call of the runtime.
CHUNK = {IMAGES: 32, CAPTIONS: 128}

EXAMPLE = "scorer:search:images=1/256/1000,captions=1,words=3/14/32,regions=36"

_AXES = (IMAGES, REGIONS, CAPTIONS, WORDS)
_BUCKET = 8  # word buckets end at multiples of this
_PROFILE = re.compile(r"([^:]*):([\w.-]+):(.*)", re.ASCII)
_RANGE = re.compile(r"(\w+)=([0-9]{1,9})(?:/([0-9]{1,9})/([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True)
class Statistics:
    """A data set's numbers of items and their lengths."""

    images: int
    captions: int
    regions: int  # of an image
    words: tuple[int, int]  # of a caption with `<start>` and `<end>`: median, 99th percentile

    @classmethod
    def of_split(cls, split: ScanSplit, token_lengths: NDArray[np.integer]) -> Statistics:
        """token_lengths (captions,): lengths of the split's captions as encoded by the model's vocabulary."""
        median, long = np.quantile(token_lengths, (0.5, 0.99), method="inverted_cdf")
        return cls(len(split.features), len(split.captions), split.features.shape[1], (int(median), int(long)))

    @classmethod
    def assumed(cls, config: dict[str, Any]) -> Statistics:
        """Without data: a typical test split, 1,000 images and 5,000 captions of about 14 words."""
        configured = config.get("num_regions")
        regions = configured if isinstance(configured, int) and configured > 0 else 36
        return cls(images=1000, captions=5000, regions=regions, words=(14, 30))


def default_profiles(
    config: dict[str, Any], limits: dict[str, int], statistics: Statistics, budget: int = GPU_TILE_BYTES
) -> dict[str, list[Profile]]:
    """{graph: profiles} for the runtime's shapes; config and limits are the bundle's, budget in bytes."""
    regions = min(statistics.regions, limits[REGIONS])
    R = Range(1, regions, regions)
    result: dict[str, list[Profile]] = {graph: [] for graph in GRAPHS}

    def add(graph: str, name: str, **axes: Range) -> None:
        result[graph].append(_profile(graph, name, axes, config))

    one = Range(1, 1, 1)
    add("image_encoder", "single", images=one, regions=R)
    add("image_encoder", "chunk", images=_up_to(CHUNK[IMAGES], statistics.images), regions=R)
    buckets = _word_buckets(statistics.words, limits[WORDS])
    # A plan holds the weights once per profile, and the text encoder has most of the weights: two profiles are enough.
    T = Range(1, buckets[0], buckets[-1])
    add("text_encoder", "single", captions=one, words=T)
    add("text_encoder", "chunk", captions=_up_to(CHUNK[CAPTIONS], statistics.captions), words=T)
    for words in buckets:
        T = Range(1, words, words)
        tile = tile_size(regions, words, config["attention_dim"], budget)
        pairs = tile.images * tile.captions
        images, captions = _up_to(pairs, statistics.images), _up_to(pairs, statistics.captions)
        add("scorer", f"search-{words}", images=images, regions=R, captions=one, words=T)
        add("scorer", f"annotation-{words}", images=one, regions=R, captions=captions, words=T)
        images, captions = _up_to(tile.images, statistics.images), _up_to(tile.captions, statistics.captions)
        add("scorer", f"matrix-{words}", images=images, regions=R, captions=captions, words=T)
    return result


def parse_profiles(texts: Iterable[str], config: dict[str, Any], limits: dict[str, int]) -> dict[str, list[Profile]]:
    """{graph: profiles} of `--profile GRAPH:NAME:axis=min/opt/max,…`; one number stands for all three.

    A graph's profiles in the result replace its defaults: `{**default_profiles(…), **parse_profiles(…)}`. Raises
    InputError for wrong syntax, an unknown, missing or repeated graph or axis, a range that is not 1 ≤ min ≤ opt ≤ max
    ≤ the model's limit, and two profiles with the same name.
    """
    result: dict[str, list[Profile]] = {}
    for text in texts:
        match = _PROFILE.fullmatch(text)
        if not match:
            raise _refusal(text, "it is not GRAPH:NAME:axis=min/opt/max,…")
        graph, name, axes = match.groups()
        if graph not in GRAPHS:
            raise _refusal(text, f"unknown graph '{graph}'; known: {', '.join(GRAPHS)}")
        if any(name == other.name for other in result.get(graph, [])):
            raise _refusal(text, f"the {graph} has two profiles '{name}'")
        result.setdefault(graph, []).append(_profile(graph, name, _parse_axes(text, graph, axes, limits), config))
    return result


def profile_table(profiles: Mapping[str, Sequence[Profile]]) -> str:
    """One row per profile, in TensorRT's order: sizes of each axis as min/opt/max, or one number for all three."""
    rows = [
        [graph, number, profile.name, *(str(profile.axes.get(axis, "")) for axis in _AXES)]
        for graph, of_graph in profiles.items()
        for number, profile in enumerate(of_graph)
    ]
    alignment = ("left", "right", "left", *("right" for _ in _AXES))
    return tabulate(rows, ["graph", "#", "profile", *_AXES], disable_numparse=True, colalign=alignment)


def _parse_axes(text: str, graph: str, axes: str, limits: dict[str, int]) -> dict[str, Range]:
    known, result = _axes_of(graph), {}
    for part in axes.split(","):
        match = _RANGE.fullmatch(part.strip())
        if not match:
            raise _refusal(text, f"'{part[:60]}' is not axis=min/opt/max or axis=size")
        axis, low = match[1], int(match[2])
        if axis not in known:
            raise _refusal(text, f"the {graph} has no axis '{axis}', it has {', '.join(known)}")
        if axis in result:
            raise _refusal(text, f"the axis '{axis}' is given twice")
        size = result[axis] = Range(low, int(match[3] or low), int(match[4] or low))
        if not 1 <= size.min <= size.opt <= size.max:
            raise _refusal(text, f"{axis}={size} is not 1 ≤ min ≤ opt ≤ max")
        if size.max > limits.get(axis, size.max):
            raise _refusal(text, f"{axis}={size} is beyond the model's limit, {limits[axis]} {axis}")
    missing = [axis for axis in known if axis not in result]
    if missing:
        raise _refusal(text, f"it lacks {', '.join(missing)}")
    return result


def _refusal(text: str, reason: str) -> InputError:
    return InputError(f"--profile '{text[:200]}': {reason}\nwrite it as in: --profile '{EXAMPLE}'")


def _profile(graph: str, name: str, axes: dict[str, Range], config: dict[str, Any]) -> Profile:
    widths = state_widths(config)
    columns = {
        "features": (config["region_dim"],),
        "image_states": (widths["image"],),
        "text_states": (widths["text"],),
    }

    def shapes(tensor: str, names: tuple[str, ...]) -> Shapes:
        last = columns.get(tensor, ())
        return Shapes(*((*sizes, *last) for sizes in zip(*(axes[axis] for axis in names), strict=True)))

    ordered = {axis: axes[axis] for axis in _axes_of(graph)}
    return Profile(name, ordered, {tensor: shapes(tensor, names) for tensor, names in INPUTS[graph].items()})


def _axes_of(graph: str) -> list[str]:
    used = {axis for names in INPUTS[graph].values() for axis in names}
    return [axis for axis in _AXES if axis in used]


def _up_to(largest: int, typical: int) -> Range:
    """1 to `largest` items, tuned for `typical` items if those are fewer."""
    return Range(1, min(largest, typical), largest)


def _word_buckets(words: Iterable[int], limit: int) -> list[int]:
    """Upper ends of the buckets: each number rounded up to a multiple of 8, and the limit itself."""
    return sorted({min(-(-number // _BUCKET) * _BUCKET, limit) for number in (*words, limit)})
