"""The record as a Markdown page: each step's status and results, one table per step."""

from __future__ import annotations

from typing import Any

from .plan import Row

_SIGNS = {"done": "✓", "failed": "✗", "timed out": "✗", "could not run": "–", "running": "…", "waiting": "…"}


def page_of(record: dict[str, Any], json_name: str, log_name: str) -> str:
    """The page of a record (see record.py)."""
    what = "A rehearsal: tiny sizes on the CPU, speeds are meaningless." if record["rehearsal"] else ""
    when = (
        f"{record['started']} to {record['finished']}" if record["finished"] else f"{record['started']}, not finished"
    )
    commit = f", commit {record['commit']}" if record["commit"] else ""
    lines = ["# GPU record", "", f"{when}, caan {record['caan']}{commit}. {what}".strip(), ""]
    lines += [f"Every number: [{json_name}]({json_name}); the steps' output: [{log_name}]({log_name}).", ""]
    lines += ["| step | | s |", "|---|---|---:|"]
    for entry in record["steps"].values():
        lines.append(f"| {entry['title']} | {_cell(status_text(entry))} | {_number(entry.get('seconds', ''))} |")
    for entry in record["steps"].values():
        if entry["rows"]:
            lines += ["", f"## {entry['title']}", *_tables(entry["rows"])]
    return "\n".join(lines) + "\n"


def status_text(entry: dict[str, Any]) -> str:
    """As `✓ done`; with the reason if there is one."""
    reason = f": {entry['reason']}" if entry["reason"] else ""
    return f"{_SIGNS[entry['status']]} {entry['status']}{reason}"


def _tables(rows: dict[str, Row]) -> list[str]:
    """One table for each set of columns. `ok` becomes a sign before the row's name."""
    kinds: dict[tuple[str, ...], dict[str, Row]] = {}
    for name, row in rows.items():
        kinds.setdefault(tuple(column for column in row if column != "ok"), {})[name] = row
    lines: list[str] = []
    for columns, members in kinds.items():
        numeric = [all(isinstance(row[name], int | float | None) for row in members.values()) for name in columns]
        lines += [
            "",
            f"| | {' | '.join(map(_cell, columns))} |",
            f"|---|{'|'.join('---:' if n else '---' for n in numeric)}|",
        ]
        for name, row in members.items():
            sign = "" if "ok" not in row else "✓ " if row["ok"] else "✗ "
            lines.append(f"| {sign}{_cell(name)} | {' | '.join(_cell(_number(row[column])) for column in columns)} |")
    return lines


def _number(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e3:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e12 else f"{value:.1e}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
