"""What a checkpoint says of its model, and what was assumed where it says nothing, each with its origin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

_MOST, _LONGEST = 100, 1000


@dataclass(frozen=True)
class Setting:
    """One setting, for people: a name, its value, and where it came from."""

    name: str
    value: str
    source: str  # "file", "option", "default", "data"
    note: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


def settings_from(content: object) -> list[Setting]:
    """The settings that a file holds as a list of `Setting.as_dict`; entries of any other form are left out."""
    entries = content if isinstance(content, list) else []
    return [Setting(**entry) for entry in entries[:_MOST] if isinstance(entry, dict) and _is_setting(entry)]


def _is_setting(entry: dict[Any, Any]) -> bool:
    is_text = all(isinstance(value, str) and len(value) <= _LONGEST for value in entry.values())
    return is_text and entry.keys() == {field.name for field in fields(Setting)}
