"""`checksum`, an entry of JSON files that no other file vouches for: the SHA-256 of all bytes above its line.

A hash of bytes, so that a reader in any language compares it without printing JSON as Python does. It is against
accidents: whoever means to can write another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from ._text import BOM, json_text

CHECKSUM = "checksum"


def text_with_checksum(covered: Mapping[str, Any], others: Mapping[str, Any], indent: int) -> bytes:
    """JSON of the covered entries, their checksum, and the other entries, which may change without it."""
    above = json_text(dict(covered), indent).removesuffix("\n}") + ","
    below = {CHECKSUM: hashlib.sha256(above.encode()).hexdigest(), **others}
    return (above + json_text(below, indent).removeprefix("{") + "\n").encode()


def is_intact(content: bytes, indent: int) -> bool:
    """Whether a file that `text_with_checksum` wrote has the checksum it holds. A byte order mark doesn't count."""
    # Deeper entries of that name have more spaces in front, and text holds no line feed.
    above, _, below = content.removeprefix(BOM).partition(b"\n" + b" " * indent + f'"{CHECKSUM}": "'.encode())
    return below.startswith(hashlib.sha256(above).hexdigest().encode() + b'"')
