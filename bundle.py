"""The bundle: a folder of ONNX graphs, vocabulary and manifest. Open, verify and change it.

NAME.caan/manifest.json         manifest.py declares it
NAME.caan/vocab.json
NAME.caan/scorer_weights.npy    float32 (2, d): w_v and w_u, for kernels that score without a graph
NAME.caan/onnx/{image_encoder,text_encoder,scorer}.{precision}.onnx
NAME.caan/onnx/{explainer,expander}.fp32.onnx
NAME.caan/engines/{target}-{precision}/{image_encoder,text_encoder,scorer}.{plan,epcontext.onnx}
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ._files import Outdated, atomic_folder, open_regular, read_consistently, read_regular, sha256_of, stamp_of
from ._schema import MisfitError, typed
from .errors import BundleError, OutputError
from .manifest import FileEntry, is_unchanged, manifest_text, read_entries

T = TypeVar("T")

GRAPHS = ("image_encoder", "text_encoder", "scorer")  # what every precision has
# FP32 only; older bundles have none.
EXPLAINER, EXPANDER = SIDE_GRAPHS = ("explainer", "expander")
MANIFEST, VOCABULARY = "manifest.json", "vocab.json"
# A scorer needs these, the states and `attention_scale`. Older bundles have none.
SCORER_WEIGHTS = "scorer_weights.npy"
# In the manifest, of a checkpoint that holds no vocabulary.
SCAN_FAMILY = "SCAN"
# Key in INT8's entry of `precisions`: the dtype of the graphs' scales. Absent: float16.
SCALES = "scales"
# The graphs' axes are dynamic; these bounds keep damaged or hostile input from exhausting memory.
MAX_REGIONS, MAX_WORDS = 512, 128
# The graphs' dynamic axes.
IMAGES, REGIONS, CAPTIONS, WORDS = "images", "regions", "captions", "words"
# Graph → its inputs and its one output, with their dynamic axes.
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

_LONGEST_NAME = 255  # bytes


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its files match its manifest."""

    folder: Path
    manifest: dict[str, Any]
    stamp: tuple[int, ...]  # identifies this version of manifest.json

    @property
    def config(self) -> dict[str, Any]:
        """The model's config, from the checkpoint."""
        config: dict[str, Any] = self.manifest["config"]
        return config

    @property
    def precisions(self) -> list[str]:
        return list(self.manifest["precisions"])

    def is_current(self) -> bool:
        """Whether the folder still holds this bundle; False once it was replaced."""
        return stamp_of(self.folder / MANIFEST) == self.stamp

    def graph(self, name: str, precision: str) -> Path:
        """The path of an ONNX graph. Raises BundleError, listing the precisions, for one that is missing."""
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
        """The bytes of a listed file, checked against the manifest's hash: the bytes checked are the bytes used.

        Raises BundleError if the file was replaced since the bundle was opened.
        """
        path = self.folder / file
        try:
            content = read_regular(path)
        except OSError as error:
            raise BundleError(f"can't read {path}: {error.strerror}; open the bundle again") from error
        self.compare(file, content)
        return content

    def compare(self, file: str, content: bytes) -> None:
        """Raise BundleError unless these bytes of a listed file have the manifest's hash."""
        if hashlib.sha256(content).hexdigest() != self.hash_of(file):
            raise BundleError(
                f"{self.folder / file} is not the file this bundle was opened with, it was replaced; open it again"
            )

    def hash_of(self, file: str) -> str:
        """A file's SHA-256 in the manifest."""
        return str(self.manifest["files"][file]["sha256"])


def state_matrices(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Columns of each matrix of an item's state: V, VK, VQ1, VQ2, VQ6 of an image, U, UQ3, UQ4, UQ5 of a text."""
    D, d = config["embed_dim"], config["attention_dim"]
    return {"image": (D, D, d, d, d), "text": (D, d, d, d)}


def state_widths(config: Mapping[str, Any]) -> dict[str, int]:
    """Columns of an item's state: `[V | VK | VQ1 | VQ2 | VQ6]` of an image, `[U | UQ3 | UQ4 | UQ5]` of a text."""
    return {kind: sum(widths) for kind, widths in state_matrices(config).items()}


def normalizes_images(config: Mapping[str, Any]) -> bool:
    """Whether a region's vector has the length 1."""
    return config.get("normalize_images", config.get("normalize")) is not False


def graph_file(name: str, precision: str) -> str:
    """A graph's path inside a bundle."""
    return f"onnx/{name}.{precision}.onnx"


def plan_file(name: str, engine: str) -> str:
    """A plan's path inside a bundle."""
    return f"engines/{engine}/{name}.plan"


def ep_context_file(name: str, engine: str) -> str:
    """The path inside a bundle of the graph through which ONNX Runtime loads a plan; beside the plan."""
    return f"engines/{engine}/{name}.epcontext.onnx"


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle and verify every file against the manifest, and the manifest against its checksum if it has one.

    A file may be a link to anywhere, as in a content-addressed store; its content must have the hash. Raises
    BundleError, naming the file, if the folder is not a bundle, has a newer format version, or a file is missing,
    changed, or outside the bundle.
    """

    def read() -> Bundle:
        stamp = stamp_of(folder / MANIFEST)
        manifest, content = _read_manifest(folder)
        _verify(folder, manifest)
        _check_unchanged(folder, manifest, content)
        return Bundle(folder, manifest, stamp)

    return read_consistently(folder / MANIFEST, read)


def from_bundle(folder: Path, read: Callable[[Bundle], T]) -> T:
    """The result of `read`, called again if the bundle was replaced while it ran.

    Raises as `open_bundle`, and as `read` does while the bundle stays the same.
    """
    return read_consistently(folder / MANIFEST, lambda: read(open_bundle(folder)))


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        _verify_file(folder, name, entry)
    expected = {graph_file(graph, precision) for precision in manifest["precisions"] for graph in GRAPHS}
    unlisted = sorted({VOCABULARY, *expected} - set(manifest["files"]))
    if unlisted:
        raise BundleError(f"{folder / MANIFEST} does not list {unlisted[0]}; export the checkpoint again")


def _check_unchanged(folder: Path, manifest: dict[str, Any], content: bytes) -> None:
    if not is_unchanged(manifest, content):
        raise BundleError(
            f"{folder / MANIFEST} does not fit its graphs: it was changed since caan wrote it;"
            " copy the bundle again, or export the checkpoint again"
        )


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
    """Raise OutputError for a bundle of links to files elsewhere: only their owner may change them."""
    home = bundle.folder.resolve()
    for name in (MANIFEST, *bundle.manifest["files"]):
        if not (bundle.folder / name).resolve().is_relative_to(home):
            raise OutputError(
                f"{bundle.folder} is not changed: its {name} is a link to a file elsewhere, as in a download cache;"
                f" change a copy: cp -rL {bundle.folder} COPY.caan"
            )


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest with its checksum and the hash and size of every file in `folder`.

    For a bundle that is still being written (see `atomic_folder`); the manifest comes last.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size} for path in files
    }
    (folder / MANIFEST).write_bytes(manifest_text(manifest, entries))


def change_bundle(folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Bundle:
    """Change an existing bundle: `change` gets a copy of its folder and its manifest, and edits both.

    Readers see the old bundle or the new one. If another process changes the bundle meanwhile, `change` is called again
    with the new content, so that neither's work is lost. Other files in the folder, modes and owners stay. Raises
    BundleError as `open_bundle`, OutputError if the bundle can't be written or consists of links to files elsewhere,
    and as `change`; the bundle is then unchanged.
    """
    folder = folder.resolve()  # the current folder is replaced, too
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
    """A hard link, since a bundle's files are replaced, never written to; a copy where links don't work."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def read_manifest(folder: Path) -> dict[str, Any]:
    """A bundle's manifest, without verifying its files. Raises BundleError if it is missing, damaged or newer."""
    return _read_manifest(folder)[0]


def _read_manifest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Its entries and its bytes."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder} is not a bundle: it has no manifest.json; make one with: caan-export model.pt")
    return read_entries(path)


def _verify_file(folder: Path, name: str, entry: Any) -> None:
    path = folder / name
    if not _is_inside(name):
        raise BundleError(f"{folder / MANIFEST} names '{name[:200]}', outside the bundle; do not trust this bundle")
    try:
        listed = typed(entry, FileEntry)
    except MisfitError as misfit:
        lacks = "size" if misfit.path == "size" else "hash"
        raise BundleError(f"{folder / MANIFEST} has no {lacks} for '{name}'; export the checkpoint again") from misfit
    again = "copy the bundle again, or export the checkpoint again"
    # A link may lead anywhere, as in a content-addressed store: the hash decides.
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != listed.size:
                raise BundleError(f"{path} has {size} bytes, the manifest says {listed.size}; {again}")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError as error:
        raise BundleError(f"{path} can't be read: {error.strerror}; {again}") from error
    except OSError as error:  # missing, or a folder, a pipe, a loop of links
        raise BundleError(f"{path} is missing from the bundle; {again}") from error
    if digest != listed.sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is not the manifest's; {again}")


def _is_inside(name: str) -> bool:
    """Whether this names a file inside the folder, links aside."""
    relative = PurePosixPath(name)
    # Backslash and colon separate on Windows; a file name has no zero byte and is not longer.
    if relative.is_absolute() or ".." in relative.parts or any(character in name for character in "\\:\0"):
        return False
    try:
        return all(len(os.fsencode(part)) <= _LONGEST_NAME for part in relative.parts)
    except UnicodeEncodeError:  # half a surrogate pair
        return False
