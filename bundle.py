"""The bundle: a folder of ONNX graphs, vocabulary and manifest. Read, write, verify. Standard library only.

NAME.caan/manifest.json
NAME.caan/vocab.json
NAME.caan/scorer_weights.npy    float32 (2, d): w_v and w_u, for kernels that score without a graph
NAME.caan/onnx/{image_encoder,text_encoder,scorer}.{precision}.onnx
NAME.caan/onnx/{explainer,expander}.fp32.onnx
NAME.caan/engines/{target}-{precision}/{image_encoder,text_encoder,scorer}.{plan,epcontext.onnx}
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ._checksum import CHECKSUM, is_intact, text_with_checksum
from ._files import Outdated, atomic_folder, open_regular, read_consistently, read_regular, sha256_of, stamp_of
from ._text import parse_json
from .errors import BundleError, OutputError

T = TypeVar("T")

FORMAT, VERSION = "caan-bundle", 1
GRAPHS = ("image_encoder", "text_encoder", "scorer")  # what every precision has
# In FP32 alone; bundles exported before there were any have none.
EXPLAINER, EXPANDER = SIDE_GRAPHS = ("explainer", "expander")
MANIFEST, VOCABULARY = "manifest.json", "vocab.json"
# What a scorer needs beside the states and `attention_scale`. Bundles exported before there was one have none.
SCORER_WEIGHTS = "scorer_weights.npy"
# Of INT8's entry in `precisions`, the type of the graphs' scales. Without one it is float16.
SCALES = "scales"
# The graphs' axes are dynamic; these bounds keep a damaged or hostile input from asking for all the memory.
MAX_REGIONS, MAX_WORDS = 512, 128
# The graphs' dynamic axes.
IMAGES, REGIONS, CAPTIONS, WORDS = "images", "regions", "captions", "words"
# Graph → its inputs, and its one output, each with its dynamic axes.
INPUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "image_encoder": {"features": (IMAGES, REGIONS)},
    "text_encoder": {"tokens": (CAPTIONS, WORDS), "text_lengths": (CAPTIONS,)},
    "scorer": {
        "image_states": (IMAGES, REGIONS),
        "image_lengths": (IMAGES,),
        "text_states": (CAPTIONS, WORDS),
        "text_lengths": (CAPTIONS,),
    },
}
OUTPUTS = {
    "image_encoder": ("image_states", (IMAGES, REGIONS)),
    "text_encoder": ("text_states", (CAPTIONS, WORDS)),
    "scorer": ("scores", (IMAGES, CAPTIONS)),
}

# Manifest entries a reader relies on, with the JSON type each must have.
_REQUIRED = {"config": dict, "tokenizer": str, "limits": dict, "files": dict, "precisions": dict}
_REQUIRED_CONFIG = ("region_dim", "embed_dim", "attention_dim", "vocab_size")
_LONGEST_NAME = 255  # bytes


# Entries that decide results and are in no file that has a hash: the manifest's checksum covers these. What it says of
# a precision is a record of graphs that have hashes.
_COVERED = ("config", "tokenizer", "opset", "limits")
# What manifests had before there were checksums: the hash of those entries as Python prints them.
_OLD_SEAL = "seal"
_INDENT = 2


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files are those of its manifest."""

    folder: Path
    manifest: dict[str, Any]
    stamp: tuple[int, ...]  # which writing of the manifest this is

    @property
    def config(self) -> dict[str, Any]:
        """The model's config, as the checkpoint held it."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    @property
    def precisions(self) -> list[str]:
        return list(self.manifest["precisions"])

    def is_current(self) -> bool:
        """Whether the folder still holds this bundle, and not one that has replaced it since."""
        return stamp_of(self.folder / MANIFEST) == self.stamp

    def graph(self, name: str, precision: str) -> Path:
        """The path of one ONNX graph. Raises BundleError, naming what there is, if the precision is not there."""
        if precision not in self.precisions:
            raise BundleError(f"{self.folder} has no precision '{precision}'; it has: {', '.join(self.precisions)}")
        return self.folder / graph_file(name, precision)

    def side_graph(self, name: str) -> Path:
        """The path of the explainer or the expander. Raises BundleError if the bundle has none."""
        file = graph_file(name, "fp32")
        if file not in self.manifest["files"]:
            raise BundleError(
                f"{self.folder} has no {name} graph: it is older than that graph; export the checkpoint again:"
                f" caan-export model.pt -o {self.folder} --overwrite"
            )
        return self.folder / file

    def content(self, file: str) -> bytes:
        """The bytes of a listed file, which have the manifest's hash: what is checked is what is used.

        Raises BundleError for a file that was replaced since the bundle was opened.
        """
        path = self.folder / file
        try:
            content = read_regular(path)
        except OSError as error:
            raise BundleError(f"can't read {path}: {error.strerror}; open the bundle again") from error
        self.compare(file, content)
        return content

    def compare(self, file: str, content: bytes) -> None:
        """Raise BundleError if these bytes, read from a listed file, don't have the manifest's hash."""
        if hashlib.sha256(content).hexdigest() != self.hash_of(file):
            raise BundleError(
                f"{self.folder / file} is not the file this bundle was opened with, it was replaced; open it again"
            )

    def hash_of(self, file: str) -> str:
        """SHA-256 of a file, as the manifest gives it."""
        return str(self.manifest["files"][file]["sha256"])


def state_widths(config: Mapping[str, Any]) -> dict[str, int]:
    """Columns of an item's state: `[V | VK | VQ1 | VQ2 | VQ6]` of an image, `[U | UQ3 | UQ4 | UQ5]` of a text."""
    D, d = config["embed_dim"], config["attention_dim"]
    return {"image": 2 * D + 3 * d, "text": D + 3 * d}


def graph_file(name: str, precision: str) -> str:
    """A graph's path inside a bundle."""
    return f"onnx/{name}.{precision}.onnx"


def plan_file(name: str, engine: str) -> str:
    """A plan's path inside a bundle."""
    return f"engines/{engine}/{name}.plan"


def ep_context_file(name: str, engine: str) -> str:
    """The path inside a bundle of the graph through which ONNX Runtime loads a plan; it lies beside the plan."""
    return f"engines/{engine}/{name}.epcontext.onnx"


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle and verify every file against the manifest, and the manifest's numbers against its checksum.

    A file may be a link to anywhere, as in a content-addressed store: its content has the hash, or it is refused.
    Raises BundleError, naming the file, if the folder is no bundle, is of a newer format version, or a file is
    missing, changed, or named outside the bundle. The oldest manifests have no checksum.
    """

    def read() -> Bundle:
        stamp = stamp_of(folder / MANIFEST)
        manifest, content = _read_manifest(folder)
        _verify(folder, manifest)
        _check_sealed(folder, manifest, content)
        return Bundle(folder, manifest, stamp)

    return read_consistently(folder / MANIFEST, read)


def from_bundle(folder: Path, read: Callable[[Bundle], T]) -> T:
    """What `read` makes of a bundle and its files; again, if the bundle was replaced while they were being read.

    Raises as `open_bundle`, and what `read` raises of a bundle that is still there.
    """
    return read_consistently(folder / MANIFEST, lambda: read(open_bundle(folder)))


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        _verify_file(folder, name, entry)
    expected = {graph_file(graph, precision) for precision in manifest["precisions"] for graph in GRAPHS}
    unlisted = sorted({VOCABULARY, *expected} - set(manifest["files"]))
    if unlisted:
        raise BundleError(f"{folder / MANIFEST} does not list {unlisted[0]}; export the checkpoint again")


def is_sealed(manifest: dict[str, Any]) -> bool:
    """Whether a manifest holds a checksum, or the seal that was its forerunner. The oldest ones hold neither."""
    return CHECKSUM in manifest or _OLD_SEAL in manifest


def _check_sealed(folder: Path, manifest: dict[str, Any], content: bytes) -> None:
    if CHECKSUM in manifest:
        is_good = is_intact(content, _INDENT)
    else:
        is_good = _OLD_SEAL not in manifest or manifest[_OLD_SEAL] == _old_seal(manifest)
    if not is_good:
        raise BundleError(
            f"{folder / MANIFEST} does not fit its graphs: it was changed since caan wrote it;"
            " copy the bundle again, or export the checkpoint again"
        )


def _old_seal(manifest: dict[str, Any]) -> str:
    covered = {key: manifest.get(key) for key in _COVERED}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def find_bundle(named: Path | None, folder: Path) -> Path:
    """The named bundle, or the only `*.caan` of `folder`. Raises BundleError if there is none, or more than one."""
    if named is not None:
        return named
    found = sorted(folder.glob("*.caan"))
    if not found:
        raise BundleError(f"no *.caan bundle in {folder.resolve()}; make one with: caan-export model.pt")
    if len(found) > 1:
        raise BundleError(f"several bundles here ({', '.join(p.name for p in found)}); name the one you mean")
    return found[0]


def check_changeable(bundle: Bundle) -> None:
    """Raise OutputError for a bundle made of links to files elsewhere: who keeps those alone may change them."""
    home = bundle.folder.resolve()
    for name in (MANIFEST, *bundle.manifest["files"]):
        if not (bundle.folder / name).resolve().is_relative_to(home):
            raise OutputError(
                f"{bundle.folder} is not changed: its {name} is a link to a file elsewhere, as in a download cache;"
                f" change a copy: cp -rL {bundle.folder} COPY.caan"
            )


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Complete the manifest with the hash and size of every file in `folder` and its checksum, and write it there.

    Meant for a bundle in the making (see `atomic_folder`); the manifest is written last.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size} for path in files
    }
    content = {"format": FORMAT, "version": VERSION, **manifest, "files": entries}
    covered = {key: content[key] for key in ("format", "version", *_COVERED) if key in content}
    others = {key: content[key] for key in content if key not in (*covered, CHECKSUM, _OLD_SEAL)}
    (folder / MANIFEST).write_bytes(text_with_checksum(covered, others, _INDENT))


def change_bundle(folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Bundle:
    """Change an existing bundle: `change` gets a copy of its folder and its manifest, and alters both.

    Readers see the old bundle or the new one. When another process has changed the bundle meanwhile, `change` is
    called again with what is there now, so that neither's work is lost. What else the folder holds stays, and so do
    modes and owners. Raises BundleError as `open_bundle`, OutputError if the bundle can't be written or is made of
    links to files elsewhere, and what `change` raises; the bundle then is as it was.
    """
    folder = folder.resolve()  # the current folder, too, is another one afterwards
    while True:
        bundle = open_bundle(folder)
        check_changeable(bundle)
        with suppress(Outdated):
            with atomic_folder(folder, overwrite=True, unchanged=bundle.is_current, keep_others=True) as copy:
                for name in bundle.manifest["files"]:
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    _link(folder / name, copy / name)
                manifest = deepcopy(bundle.manifest)
                change(copy, manifest)
                write_manifest(copy, manifest)
            return open_bundle(folder)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name: files of a bundle are replaced, never written to. A copy where need be."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest, its files not compared with it. Raises BundleError if it is missing, damaged or newer."""
    return _read_manifest(folder)[0]


def _read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """What it holds, and its bytes."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder} is no bundle: it has no manifest.json; make one with: caan-export model.pt")
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
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise BundleError(f"{path} has no valid '{key}'; export the checkpoint again")
    for part, keys in (("config", _REQUIRED_CONFIG), ("limits", ("regions", "words"))):
        for key in keys:
            size = manifest[part].get(key)
            if type(size) is not int or size < 1:
                raise BundleError(f"{path} has no valid '{part}.{key}'; export the checkpoint again")
    return manifest, content


def _verify_file(folder: Path, name: str, entry: Any) -> None:
    path = folder / name
    if not _is_inside(name):
        raise BundleError(f"{folder / MANIFEST} names '{name[:200]}', outside the bundle; do not trust this bundle")
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        raise BundleError(f"{folder / MANIFEST} has no hash for '{name}'; export the checkpoint again")
    again = "copy the bundle again, or export the checkpoint again"
    # A link may lead anywhere, as those of a content-addressed store do: what is behind it has the hash, or is refused.
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.get("size"):
                raise BundleError(f"{path} has {size} bytes, the manifest says {entry.get('size')}; {again}")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise BundleError(f"{path} can't be read: {error.strerror}; {again}") from error
    except OSError as error:  # not there, or a folder, a pipe, a loop of links
        raise BundleError(f"{path} is missing from the bundle; {again}") from error
    if digest != entry["sha256"]:
        raise BundleError(f"{path} was changed: its SHA-256 is not the manifest's; {again}")


def _is_inside(name: str) -> bool:
    """Whether this is the name of a file in a folder, links aside."""
    relative = PurePosixPath(name)
    # Backslash and colon are separators to Windows; no file has a zero byte in its name, or one that is longer.
    if relative.is_absolute() or ".." in relative.parts or any(character in name for character in "\\:\0"):
        return False
    try:
        return all(len(os.fsencode(part)) <= _LONGEST_NAME for part in relative.parts)
    except UnicodeEncodeError:  # half a surrogate pair
        return False
