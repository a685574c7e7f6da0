"""Shared code of the backends that open a bundle."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from ..._text import visible
from ...bundle import MANIFEST, VOCABULARY, Bundle, from_bundle, graph_file, state_widths
from ...data.vocabulary import Vocabulary
from ...errors import BundleError, CaanWarning

T = TypeVar("T")


def open_precision(path: Path, precision: str, make: Callable[[Bundle], T]) -> T:
    """`make` applied to the bundle at `path`; a CaanWarning if the precision missed its accuracy gate.

    Raises BundleError as `open_bundle`, and as `make`.
    """
    if path.is_file():
        raise BundleError(f"{path} is a file, not a bundle; export it first: caan-export {path}")

    def read(bundle: Bundle) -> tuple[Bundle, T]:
        return bundle, make(bundle)

    bundle, backend = from_bundle(path, read)
    _warn_of_failed_gate(bundle, precision)
    return backend


def encoder_hashes(bundle: Bundle, precision: str) -> dict[str, str]:
    """The hashes of `Model.encoders`. An engine's states count as those of the graphs it was built from."""
    return {side: bundle.hash_of(graph_file(f"{side}_encoder", precision)) for side in ("image", "text")}


def check_sizes(bundle: Bundle, vocabulary: Vocabulary, columns: Mapping[str, int]) -> None:
    """Raise BundleError if the config does not match the graphs. columns: {tensor: size of its last axis}.

    Older manifests have no checksum: a modified size in one must not be used for an array.
    """
    widths = state_widths(bundle.config)
    expected = {
        "features": bundle.config["region_dim"],
        "image_states": widths["image"],
        "text_states": widths["text"],
    }
    for tensor, size in expected.items():
        if columns[tensor] != size:
            raise BundleError(
                f"{bundle.folder / MANIFEST} does not fit its graphs: {tensor} has {columns[tensor]} columns, the"
                f" config says {size}; export the checkpoint again"
            )
    rows = bundle.config["vocab_size"]
    if len(vocabulary) > rows:
        raise BundleError(
            f"{bundle.folder / VOCABULARY} has ids up to {len(vocabulary) - 1}, the embedding only {rows} rows; export"
            " the checkpoint again"
        )


def _warn_of_failed_gate(bundle: Bundle, precision: str) -> None:
    entry = bundle.manifest["precisions"][precision]
    if not isinstance(entry, dict) or entry.get("status") != "failed":
        return
    checks = entry.get("checks")
    missed = [c for c in checks if isinstance(c, dict) and c.get("passed") is False] if isinstance(checks, list) else []
    summary = missed[-1].get("summary") if missed else None
    warnings.warn(
        f"{precision} of {bundle.folder} missed its accuracy gate{f': {visible(str(summary))}' if summary else ''};"
        " use it to investigate, not to search",
        CaanWarning,
        stacklevel=6,
    )
