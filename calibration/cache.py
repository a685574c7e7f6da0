"""The cache of calibrated ranges: a JSON file per combination of graphs, data, method, seed and sample.

A file is used only if its checksum matches. The cache never fails a job: problems with it are CaanWarnings.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

from .._cache import cache_file, read_cached, write_cached
from ..bundle import GRAPHS
from ..errors import CaanWarning

Ranges = dict[str, dict[str, float]]  # graph → tensor → range

FORMAT = "caan-calibration"
ALGORITHM = 1  # incremented whenever the same key would give other ranges


def load(key: dict[str, Any]) -> Ranges | None:
    """The cached ranges of a key; None if there are none, or, with a CaanWarning, if the file is damaged."""
    path = cache_path(key)

    def warn(reason: str) -> None:
        warnings.warn(
            f"the cached calibration {path} is damaged ({reason}); calibrating again and replacing it",
            CaanWarning,
            stacklevel=4,
        )

    return read_cached(path, lambda content: _read(content, key), warn)


def store(key: dict[str, Any], ranges: Ranges) -> None:
    """Cache the ranges of a key, replacing old ones. Warns (CaanWarning) if the cache can't be written."""
    content = {"format": FORMAT, "key": _versioned(key), "ranges": ranges, "sha256": _digest(ranges)}
    write_cached(cache_path(key), (json.dumps(content, indent=2) + "\n").encode(), "the calibration")


def cache_path(key: dict[str, Any]) -> Path:
    """The cache file of a key (JSON-serializable)."""
    return cache_file("calibration", _canonical(_versioned(key)), ".json")


def _read(stored: bytes, key: dict[str, Any]) -> Ranges:
    """Raises ValueError or RecursionError, with the reason, if a file does not hold the key's ranges."""
    content = json.loads(stored)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("key") != _versioned(key):
        raise ValueError("it holds something else")
    ranges: Ranges = content.get("ranges", {})
    if content.get("sha256") != _digest(ranges):
        raise ValueError("its checksum does not match its content")
    if not _is_ranges(ranges):
        raise ValueError("it holds no ranges")
    return ranges


def _versioned(key: dict[str, Any]) -> dict[str, Any]:
    return {**key, "algorithm": ALGORITHM}


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


def _digest(content: Any) -> str:
    return hashlib.sha256(_canonical(content).encode()).hexdigest()


def _is_ranges(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and set(content) == set(GRAPHS)
        and all(isinstance(tensors, dict) for tensors in content.values())
        and all(
            isinstance(value, float) and 0 < value < math.inf
            for tensors in content.values()
            for value in tensors.values()
        )
    )
