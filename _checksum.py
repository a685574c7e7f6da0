"""`checksum`, an entry of JSON files without a checksum elsewhere: the SHA-256 of all bytes above its line.

It hashes bytes, so that readers in any language can verify it without reproducing Python's JSON output. It detects
accidental damage, not tampering.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ._text import BOM, json_text

CHECKSUM = "checksum"


def text_with_checksum(covered: Mapping[str, Any], others: Mapping[str, Any], indent: int) -> bytes:
    """JSON of the covered entries, their checksum, and the other entries, which it does not cover."""
    above = json_text(dict(covered), indent).removesuffix("\n}") + ","
    below = {CHECKSUM: hashlib.sha256(above.encode()).hexdigest(), **others}
    return (above + json_text(below, indent).removeprefix("{") + "\n").encode()


def is_intact(content: bytes, indent: int) -> bool:
    """Whether the checksum in a file from `text_with_checksum` is correct. Ignores a byte order mark."""
    # Nested entries of that name are indented further, and JSON strings hold no line feeds.
    above, _, below = content.removeprefix(BOM).partition(b"\n" + b" " * indent + f'"{CHECKSUM}": "'.encode())
    return below.startswith(hashlib.sha256(above).hexdigest().encode() + b'"')
