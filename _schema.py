"""JSON as typed objects: a format is declared once, as a class, and what does not fit it is named by its path."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_MISSING = re.compile(r"Object missing required field `(\w+)`(?: - at `\$(.*)`)?")
# The reason may quote the file, which may hold anything; the path holds field names and indices only.
_WRONG = re.compile(r"(.*?)(?: - at `(key in )?\$([^`]*)`)?", re.DOTALL)
_ANY_KEY = "[...]"  # in msgspec's paths, a key of a dict
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


class MisfitError(ValueError):
    """JSON that is not as its class declares it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path, self.reason = path, reason


def typed(value: Any, kind: type[T]) -> T:
    """A JSON value as `kind`, a `msgspec.Struct`. Entries that the class does not declare are left out.

    Raises MisfitError with the path of the first entry that is missing or of another type, as "options.stripped".
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
    path, reason = _place(message)

    def fails_alike(other: Any) -> bool:
        try:
            msgspec.convert(other, kind)
        except msgspec.ValidationError as error:
            return str(error) == message
        return False

    raise MisfitError(_with_keys(path, value, fails_alike), reason)


def _place(message: str) -> tuple[str, str]:
    """The path and the reason in msgspec's message."""
    if missing := _MISSING.fullmatch(message):
        return f"{missing[2] or ''}.{missing[1]}", "it is missing"
    wrong = _WRONG.fullmatch(message)
    assert wrong is not None
    return wrong[3] or "", wrong[1]


def _with_keys(path: str, value: Any, fails_alike: Callable[[Any], bool]) -> str:
    """The path with the keys that msgspec leaves out."""
    first, *others = path.split(_ANY_KEY)
    steps = _steps(first)
    for part in others:
        entries = value
        for step in steps:
            entries = entries[step]
        # The first entry that fails is the last of the shortest beginning that fails in the same way.
        keys = list(entries)
        low, high = 1, len(keys)
        while low < high:
            middle = (low + high) // 2
            if fails_alike(_replaced(value, steps, {key: entries[key] for key in keys[:middle]})):
                high = middle
            else:
                low = middle + 1
        steps += [keys[low - 1], *_steps(part)]
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _steps(path: str) -> list[str | int]:
    return [name or int(index) for name, index in _STEP.findall(path)]


def _replaced(value: Any, steps: Sequence[str | int], new: Any) -> Any:
    """A copy of a JSON value with another one at a place."""
    if not steps:
        return new
    copy, step = value.copy(), steps[0]
    copy[step] = _replaced(value[step], steps[1:], new)
    return copy
