"""The bench's rows as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from ..accuracy.gate import DEFAULT_LIMITS
from .native_gains import gains_text, native_gains
from .recall import K, RecallCurve
from .retrieval import RetrievalSpeed
from .roofline import rooflines, rooflines_text
from .rows import Row
from .run import BenchResult

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

_ROUNDING = (
    "ONNX Runtime skips FP16 and INT8 roundings that a GPU makes and that the gate of caan-build-engine emulates: the\n"
    "gate's numbers differ a little from these."
)
_RECALL = 0.99
_FORM_HEADERS = [
    "gallery",
    "KiB\nper image",
    "1 query\nms",
    "of 128 at once\nms per query",
    "indexed\nimages/s",
]


def bench_table(result: BenchResult, style: str = "simple") -> str:
    """The tables of one run; `style` is tabulate's, as "github" for Markdown."""
    ran = [row for row in result.rows if row.reason is None]
    parts = [
        f"measured on {result.workload}",
        _table([_speed(row) for row in ran], _HEADERS, style),
    ]
    if gains := native_gains(ran):
        parts.append(gains_text(gains))
        parts.append(rooflines_text(rooflines(ran)))
    if any(row.metrics for row in ran):
        rows = [_quality(row) for row in ran if row.metrics]
        parts.append(_table(rows, _QUALITY_HEADERS, style))
        if any(row.metrics and row.spec.backend == "onnxruntime" and row.spec.precision != "fp32" for row in ran):
            parts.append(_ROUNDING)
        if gates := [line for row in ran for line in _gate(row)]:
            parts.append("accuracy gates, against PyTorch:\n" + "\n".join(gates))
    if result.recall:
        parts.append("searching by sketches:\n" + "\n".join(map(_by_sketches, result.recall)))
    tuned = [line for row in ran for line in _tuning(row)]
    if tuned:
        parts.append("tiles and threads, chosen on this machine:\n" + "\n".join(tuned))
    parts += [text for row in ran if row.retrieval for text in _retrieval(row, row.retrieval, style)]
    absent = [f"  {row.name}: {row.reason}" for row in result.rows if row.reason is not None]
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
        row.name,
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
    return [row.name, *recalls, *difference]


def _gate(row: Row) -> list[str]:
    limits = DEFAULT_LIMITS.get(row.spec.precision)
    if row.parity is None or limits is None or row.spec.backend == "torch":
        return []
    return [f"  {row.name}: {'kept' if limits.hold(row.parity) else 'MISSED'} ({limits})"]


def _by_sketches(curve: RecallCurve) -> str:
    what = f"  {curve.direction}, {curve.items:,} items: {_RECALL:.0%} of the exact best {K}"
    point = curve.reaching(_RECALL)
    if point is None:
        return f"{what} takes more candidates than were tried"
    times = f"{point.milliseconds:.1f} ms instead of {curve.exact_milliseconds:.1f}"
    return f"{what} with {point.candidates:,} candidates, {times}"


_SHAPES = {"query": "single queries", "pairs": "many × many"}


def _tuning(row: Row) -> list[str]:
    lines = []
    for shape, tuned in (row.tuning or {}).items():
        layout = ""
        if tuned.workers is not None:
            layout = f", {tuned.workers} at a time × {tuned.threads} thread{'s' if tuned.threads != 1 else ''}"
        short = f"{tuned.short_of_best:.0f} % slower than the fastest of"
        far = "in other trials the fastest of" if tuned.short_of_best <= 0 else f"in other trials {short}"
        chosen = f"tiles of {tuned.tile_bytes >> 20} MiB{layout}"
        lines.append(f"  {row.name}, {_SHAPES[shape]}: {chosen}; {far} {len(tuned.tried)} tried")
    return lines


def comparison_table(names: tuple[str, str], compared: Sequence[Mapping[str, Any]], style: str = "simple") -> str:
    """The second bundle against the first, row by row."""

    def ratio(value: float | None) -> str:
        return "–" if value is None else f"{value:.2f} ×"

    rows = [
        [
            c["row"],
            ratio(c["pairs_per_second"]),
            ratio(c["text_query"]),
            *("–" if rsum is None else f"{rsum:.2f}" for rsum in c["rsum"]),
        ]
        for c in compared
    ]
    headers = ["", "pairs/s", "1 text query,\ntimes as fast", f"rsum\n{names[0]}", f"\n{names[1]}"]
    return f"{names[1]} against {names[0]}\n\n{_table(rows, headers, style)}"


def _retrieval(row: Row, found: RetrievalSpeed, style: str) -> list[str]:
    forms = [
        [
            form.name,
            f"{form.bytes_per_image / 2**10:,.0f}",
            f"{1000 * form.seconds_alone:.0f}",
            f"{1000 * form.seconds_together:.1f}",
            _number(form.images_per_second),
        ]
        for form in found.forms
    ]
    s, overload = found.serving, found.overload
    goodput = ", ".join(f"{share:.2f} of that at {times} ×" for times, share in overload.goodput.items())
    lines = [
        f"search_many, {found.captions:,} captions × {found.images:,} images: {found.pairs_per_second:,.0f} pairs/s,"
        f" {found.share_of_tiles:.2f} × the backend's on tiles already gathered",
        f"{s.callers} callers at once through BatchingRetriever: {s.queries_per_second:.1f} queries/s,"
        f" {s.against_many:.2f} × search_many with the same {s.callers}",
        f"the same callers, a gallery of {s.few_images} images: {s.against_one_by_one:.2f} × one by one",
        f"answered within {overload.timeout:.2g} s under load beyond the capacity of {overload.capacity:.1f} queries/s:"
        f" {goodput}",
    ]
    title = f"{row.name}, a gallery of {found.images:,} images in each of its forms"
    return [f"{title}\n\n{_table(forms, _FORM_HEADERS, style)}", "\n".join(lines)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _milliseconds(percentiles: dict[str, float] | None) -> str:
    return "–" if percentiles is None else "/".join(f"{1000 * v:.0f}" for v in percentiles.values())
