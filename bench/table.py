"""The bench's rows as text."""

from __future__ import annotations

from tabulate import tabulate

from .run import BenchResult, Row

_HEADERS = [
    "backend",
    "pairs/s",
    "1 text × 1k images\np50/p95/p99 ms",
    "1 image × 5k texts\np50/p95/p99 ms",
    "encoded\nimages/s",
    "\ntexts/s",
    "peak\nMiB",
]
_QUALITY_HEADERS = [
    "backend",
    "i→t\nR@1",
    "\nR@5",
    "\nR@10",
    "t→i\nR@1",
    "\nR@5",
    "\nR@10",
    "\nrsum",
    "\nΔ rsum",
    "max abs\nΔ score",
    "top-10\nkept",
]


def bench_table(result: BenchResult, style: str = "simple") -> str:
    """The tables of one run; `style` is tabulate's, as "github" for Markdown."""
    ran = [row for row in result.rows if row.reason is None]
    parts = [
        f"measured on {result.workload}",
        _table([_speed(row) for row in ran], _HEADERS, style),
    ]
    if any(row.metrics for row in ran):
        rows = [_quality(row) for row in ran if row.metrics]
        parts.append(_table(rows, _QUALITY_HEADERS, style))
    absent = [f"  {_name(row)}: {row.reason}" for row in result.rows if row.reason is not None]
    if absent:
        parts.append("not run here:\n" + "\n".join(absent))
    return "\n\n".join(parts)


def _table(rows: list[list[str]], headers: list[str], style: str) -> str:
    if style == "github":  # Markdown has no header of two lines
        headers = [header.replace("\n", " ").strip() for header in headers]
    alignment = ["left", *["right"] * (len(headers) - 1)]
    return tabulate(rows, headers, style, disable_numparse=True, colalign=alignment)


def _speed(row: Row) -> list[str]:
    return [
        _name(row),
        _number(row.pairs_per_second),
        _milliseconds(row.text_query),
        _milliseconds(row.image_query),
        _number(row.images_per_second),
        _number(row.captions_per_second),
        _number(row.peak_bytes and row.peak_bytes / 2**20),
    ]


def _quality(row: Row) -> list[str]:
    assert row.metrics is not None
    i, t, p = row.metrics.image_to_text, row.metrics.text_to_image, row.parity
    recalls = [f"{value:.2f}" for value in (i.r1, i.r5, i.r10, t.r1, t.r5, t.r10, row.metrics.rsum)]
    difference = [f"{p.delta_rsum:+.2f}", f"{p.max_abs:.1e}", f"{p.top10_overlap:.2f} %"] if p else ["–"] * 3
    return [_name(row), *recalls, *difference]


def _name(row: Row) -> str:
    device = "" if row.spec.device == "cpu" else f" {row.spec.device}"
    return f"{row.spec.label} {row.spec.precision}{device}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _milliseconds(percentiles: dict[str, float] | None) -> str:
    return "–" if percentiles is None else "/".join(f"{1000 * v:.0f}" for v in percentiles.values())
