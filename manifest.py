"""manifest.json of a bundle: the declared format, reading and writing it.

The classes are the format: a field's type is what the file may hold, a default makes it optional, the comment says
what it means. Sizes are bytes, hashes SHA-256 in lower-case hexadecimal. Entries that no class declares, such as those
of a newer caan, are kept and not looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct, field

from ._checksum import CHECKSUM, is_intact, text_with_checksum
from ._files import read_regular
from ._schema import MisfitError, typed
from ._text import parse_json
from .errors import BundleError

T = TypeVar("T")

FORMAT, VERSION = "caan-bundle", 1
# The entries that decide results and that no hashed file holds: the checksum covers these. The entries of precisions
# and engines only describe files with hashes.
_COVERED = ("config", "tokenizer", "opset", "limits")
# The checksum's predecessor: the hash of those entries as Python prints them.
_OLD_SEAL = "seal"
_INDENT = 2

Size = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | float


class ModelSizes(Struct, frozen=True, kw_only=True):
    """The sizes in `config` that the graphs and states follow from."""

    region_dim: Size  # F, of a region's features
    embed_dim: Size  # D, of a region's and a word's embedding
    attention_dim: Size  # d
    vocab_size: Size  # rows of the word embedding


class ModelConfig(ModelSizes, frozen=True, kw_only=True):
    """`config`: the checkpoint's config."""

    word_dim: Size | None = None  # E, of the word embedding
    num_regions: Count | None = None  # usual number of regions of an image
    attention_scale: Number | None = None  # λ
    normalize: bool = True  # whether both encoders divide their output by its norm
    normalize_images: bool | None = None  # the same of the image encoder alone, where the two differ
    normalize_texts: bool | None = None  # and of the text encoder


class ItemLimits(Struct, frozen=True, kw_only=True):
    """`limits`: the most that one item may have."""

    regions: Size
    words: Size


class FileEntry(Struct, frozen=True, kw_only=True):
    """A value of `files`."""

    sha256: str
    size: Count


class SettingRecord(Struct, frozen=True, kw_only=True):
    """One of `settings`, in words: what the bundle's model or data are, and who said so."""

    name: str
    value: str
    source: str  # file, option, default or data
    note: str = ""


class CheckpointRecord(Struct, frozen=True, kw_only=True):
    """`checkpoint`: where the bundle came from. Informative: a runtime never opens the checkpoint."""

    file: str  # relative to the bundle
    sha256: str | None = None
    family: str | None = None  # SCAN: the file holds no vocabulary, so that only an export reads it
    metrics: dict[str, Any] | None = None  # what the checkpoint says of its quality
    # SHA-256 of config, vocabulary, tokenizer and parameters: any file with the same ones is this checkpoint
    content_sha256: str | None = None
    settings: list[SettingRecord] = field(default_factory=list)  # where each came from; absent in older bundles


class CheckRecord(Struct, frozen=True, kw_only=True):
    """One of the `checks` of a precision or an engine: its scores or outputs compared with a reference."""

    what: str  # was compared with what
    data: str | None = None
    device: str | None = None
    summary: str | None = None
    errors: dict[str, Number] = field(default_factory=dict)  # graph → largest error of its output
    allowed: Any = None  # largest error, or an object: limit → value
    passed: bool | None = None
    proves_little: str | None = None  # why, where the data say little about other data
    metrics: dict[str, Any] | None = None  # R@K both ways and rsum
    reference: dict[str, Any] | None = None  # the same of the reference
    parity: dict[str, Any] | None = None  # differences from the reference


class GraphNodes(Struct, frozen=True, kw_only=True):
    """A value of `nodes`: what a graph computes in. Keys are INT8, FP16 and FP32."""

    macs: dict[str, Count]  # multiply-adds of one image and one caption
    nodes: dict[str, list[str]]


class CalibrationRecord(Struct, frozen=True, kw_only=True):
    """`calibration`: how the ranges of INT8 were found."""

    method: str
    data: str  # name of the data set
    split: str
    seed: Count
    images: Count  # drawn
    captions: Count
    pairs: Count
    positives: Count | None = None  # pairs of an image and its own caption
    held_out: Count | None = None  # images that were not drawn
    data_sha256: str | None = None
    graphs_sha256: dict[str, str] | None = None  # graph → hash of its FP32 file


class NodeCostRecord(Struct, frozen=True, kw_only=True):
    """One of `sensitivity`: what a node costs that alone is in INT8. null is infinity: a score became NaN."""

    node: str
    delta_rsum: Number | None
    mean_abs: Number | None  # mean |Δ score|
    max_abs: Number | None
    rank_flips: Count  # queries that get another best item


class PrecisionRecord(Struct, frozen=True, kw_only=True):
    """A value of `precisions`."""

    checks: list[CheckRecord] = field(default_factory=list)
    status: str | None = None  # of the accuracy gate: passed, failed or ungated
    scales: str | None = None  # INT8: dtype of the graphs' scales; absent in older bundles: float16
    islands: dict[str, str] = field(default_factory=dict)  # what stays FP32, in words
    kept_fp32: list[str] = field(default_factory=list)  # nodes by --keep-fp32
    kept_fp16: list[str] = field(default_factory=list)  # products taken back from INT8
    nodes: dict[str, GraphNodes] = field(default_factory=dict)  # by graph
    calibration: CalibrationRecord | None = None  # INT8
    sensitivity: list[NodeCostRecord] = field(default_factory=list)


class SketchRecall(Struct, frozen=True, kw_only=True):
    """A value of `recall`: what one direction of searches takes."""

    items: Size  # searched
    queries: Size
    k: Size
    recall: float  # of the exact k best
    candidates: Size | None  # that reach it; null: none but all
    share: float | None  # candidates ÷ items


class SketchRecord(Struct, frozen=True, kw_only=True):
    """`sketch`: the bundle's sketch, docs/large_galleries.md."""

    columns: Size  # bytes of an item's sketch
    calibration: Size  # items of each kind, the first in the files
    images: Count  # in the files: calibration and held-out
    captions: Count
    data: str  # name of the data set
    split: str
    seed: int
    status: str  # passed, weak: more than half of the items must be scored for 99 %, or ungated
    recall: dict[str, SketchRecall] = field(default_factory=dict)  # measured; by what is searched, image and text


class Essentials(Struct, frozen=True, kw_only=True):
    """The entries that every reader relies on: checked whenever a bundle is opened."""

    format: Literal["caan-bundle"]
    version: int
    config: ModelSizes
    tokenizer: str  # whitespace, word-punct or nltk
    limits: ItemLimits
    precisions: Mapping[str, Any]  # by precision
    files: Mapping[str, Any]  # path → hash and size of every other file; checked one by one, with the file


class Manifest(Essentials, frozen=True, kw_only=True):
    """The whole of manifest.json."""

    config: ModelConfig
    precisions: dict[str, PrecisionRecord]
    files: dict[str, FileEntry]
    caan: str | None = None  # the version that wrote it
    opset: Count | None = None  # of ONNX
    tools: dict[str, str] = field(default_factory=dict)  # package → version at export
    checkpoint: CheckpointRecord | None = None
    engines: dict[str, Any] = field(default_factory=dict)  # engine → its record: engines/record.py
    sketch: SketchRecord | None = None
    checksum: str | None = None  # of the bytes above its line; older manifests have none
    seal: str | None = None  # its predecessor


def read_entries(path: Path) -> tuple[dict[str, Any], bytes]:
    """The manifest's entries and bytes. Raises BundleError if it is damaged, newer, or lacks one of `Essentials`."""
    try:
        content = read_regular(path)
        manifest = parse_json(content)
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} can't be read as JSON ({error}); export the checkpoint again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not a {FORMAT} manifest; make a bundle with: caan-export model.pt")
    version = manifest.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise BundleError(
            f"{path} has format version {version}, this caan reads up to {VERSION};"
            " update caan, as with git pull and pip install in its checkout"
        )
    checked(manifest, Essentials, path)
    return manifest, content


def checked(value: Any, kind: type[T], path: Path, where: str = "") -> T:
    """A manifest, or its entry `where`, as `kind`. Raises BundleError, naming the entry that does not fit."""
    try:
        return typed(value, kind)
    except MisfitError as misfit:
        entry = ".".join(filter(None, (where, misfit.path)))
        raise BundleError(f"{path} has no valid {entry[:200]!r}; export the checkpoint again") from misfit


def manifest_text(entries: Mapping[str, Any], files: Mapping[str, Any]) -> bytes:
    """manifest.json with these entries and files, and their checksum."""
    content = {"format": FORMAT, "version": VERSION, **entries, "files": files}
    covered = {key: content[key] for key in ("format", "version", *_COVERED) if key in content}
    others = {key: content[key] for key in content if key not in (*covered, CHECKSUM, _OLD_SEAL)}
    return text_with_checksum(covered, others, _INDENT)


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest holds a checksum, or its predecessor, the seal. The oldest ones hold neither."""
    return CHECKSUM in manifest or _OLD_SEAL in manifest


def is_unchanged(manifest: Mapping[str, Any], content: bytes) -> bool:
    """Whether a manifest has the checksum, or the seal, that it holds; true of one without either."""
    if CHECKSUM in manifest:
        return is_intact(content, _INDENT)
    return _OLD_SEAL not in manifest or manifest[_OLD_SEAL] == _old_seal(manifest)


def _old_seal(manifest: Mapping[str, Any]) -> str:
    covered = {key: manifest.get(key) for key in _COVERED}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()
