"""The large bench's record as text."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from ..recall import TEXT_TO_IMAGE, RecallCurve

RECALL = 0.99
# From the issue of sketches: at least, or at most.
_FASTER, _GROWTH, _SCAN, _APPEND, _OPEN_SECONDS, _OPEN_BYTES = 25, 3, 2, 1.5, 0.2, 200e6


def large_table(record: dict[str, Any]) -> str:
    """Recall and milliseconds by candidates, both directions and sizes; then the other numbers with their targets."""
    steps = record["steps"]
    curves = [RecallCurve.from_dict(curve) for name in _sizes(steps) for curve in steps[name]["curves"]]
    return "\n\n".join([*map(_curve, curves), "\n".join(_others(steps, curves))])


def _sizes(steps: dict[str, Any]) -> list[str]:
    return sorted((name for name in steps if name.startswith("recall ")), key=lambda name: int(name.split()[1]))


def _curve(curve: RecallCurve) -> str:
    rows = [
        [
            f"{p.candidates:,}",
            f"{100 * p.recall:.1f}",
            f"{p.milliseconds:.1f}",
            f"{curve.exact_milliseconds / p.milliseconds:.1f}",
        ]
        for p in curve.points
    ]
    rows.append(["all", "100.0", f"{curve.exact_milliseconds:.1f}", "1.0"])
    headers = ["candidates", "% of the exact best ten", "ms per query, p50", "× faster"]
    title = f"{curve.direction}, {curve.items:,} items, {curve.queries} queries one at a time"
    return f"{title}\n{tabulate(rows, headers, disable_numparse=True, colalign=['right'] * 4)}"


def _others(steps: dict[str, Any], curves: list[RecallCurve]) -> list[str]:
    lines = []
    ours = [curve for curve in curves if curve.direction == TEXT_TO_IMAGE]
    reached = [curve.reaching(RECALL) for curve in ours]
    largest, point = ours[-1], reached[-1]
    if point is None:
        lines.append(f"{largest.items:,} images: no number of candidates measured reaches {RECALL:.0%}")
    else:
        gain = largest.exact_milliseconds / point.milliseconds
        lines.append(
            f"{largest.items:,} images, text → image, recall {point.recall:.1%} with {point.candidates:,} candidates:"
            f" {gain:.1f} × faster than exact search {_verdict(gain >= _FASTER, f'at least {_FASTER} ×')}"
        )
    if len(reached) == 2 and reached[0] is not None and point is not None:
        growth = point.milliseconds / reached[0].milliseconds
        lines.append(
            f"{ours[0].items:,} → {largest.items:,} images, same recall: time per query × {growth:.2f}"
            f" {_verdict(growth <= _GROWTH, f'at most {_GROWTH} ×')}"
        )
    if opened := steps.get("opening"):
        mb = opened["resident_bytes"] / 1e6
        good = opened["seconds"] < _OPEN_SECONDS and opened["resident_bytes"] < _OPEN_BYTES
        limit = f"below {_OPEN_SECONDS} s and {_OPEN_BYTES / 1e6:.0f} MB"
        lines.append(
            f"opening the images with sketches: {opened['seconds']:.3f} s, {mb:.0f} MB resident {_verdict(good, limit)}"
        )
    if appended := steps.get("appending"):
        good = _verdict(appended["ratio"] <= _APPEND, f"at most {_APPEND} ×")
        lines.append(f"appending 1,000 images: {appended['ratio']:.2f} × the time of encoding them {good}")
    if scanned := steps.get("scanning"):
        good = _verdict(scanned["ratio"] <= _SCAN, f"at most {_SCAN} ×")
        lines.append(
            f"scanning 1,000,000 sketches: {1000 * scanned['scan']:.1f} ms,"
            f" {scanned['ratio']:.2f} × reading them {good}"
        )
    if cold := steps.get("cold"):
        lines.append(
            f"a text query with {cold['candidates']} candidates: {cold['cold']:.1f} ms from a cold page cache,"
            f" {cold['warm']:.1f} ms once more"
        )
    if sizes := steps.get("sizes"):
        for gallery, files in sizes.items():
            lines.append(f"{gallery}: " + ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in files.items()))
    return lines


def _verdict(kept: bool, limit: str) -> str:
    return f"({limit}: {'kept' if kept else 'MISSED'})"
