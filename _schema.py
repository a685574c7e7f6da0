"""JSON as typed objects: a format is declared once, as a class, and what does not fit it is named by its path."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_MISSING = re.compile(r"Object missing required field `(\w+)`(?: - at `\$(.*)`)?")
_WRONG = re.compile(r"(.*?)(?: - at `(key in )?\$(.*)`)?", re.DOTALL)


class MisfitError(ValueError):
    """JSON that is not as its class declares it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path, self.reason = path, reason


def typed(value: Any, kind: type[T]) -> T:
    """A JSON value as `kind`, a `msgspec.Struct`. What the class does not name is left out.

    Raises MisfitError, with the path of the first entry that is missing or of another type, as "options.stripped".
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if missing := _MISSING.fullmatch(message):
            raise MisfitError(f"{missing[2] or ''}.{missing[1]}".removeprefix("."), "it is missing") from None
        wrong = _WRONG.fullmatch(message)
        assert wrong is not None
        raise MisfitError((wrong[3] or "").removeprefix("."), wrong[1]) from None
