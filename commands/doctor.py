"""`caan doctor`: what works on this machine."""

from __future__ import annotations

import click

from .. import __version__
from . import options
from .output import show, show_json

# The newest tunings to show; a cache may hold hundreds.
_SHOWN = 5


@click.command(epilog=options.EXIT_CODES)
@options.as_json
def doctor(as_json: bool) -> None:
    """Show what is installed, which backends work here, and what to install for the others."""
    from ..runtime.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        show_json(diagnosis.as_dict())
        return
    show(f"caan {__version__}\nmachine  {diagnosis.machine}\nGPU      {', '.join(diagnosis.gpus) or 'none'}\n")
    for name, installed in diagnosis.packages.items():
        show(f"  {name:<20} {installed or '–'}")
    show("")
    for check in diagnosis.checks:
        show(f"{'✓' if check.ok else '✗'} {check.name:<27} {check.detail}")
        if check.advice:
            show(f"    {check.advice}")
    show(f"\ntuned    {len(diagnosis.tunings) or 'nothing'} in {diagnosis.cache}  (CAAN_CACHE names another folder)")
    for tuning in diagnosis.tunings[:_SHOWN]:
        show(f"  {tuning.of}, {_age(tuning.age)}\n    queries: {tuning.query}; many pairs: {tuning.pairs}")
        if tuning.doubts:
            show(f"    doubtful: {'; '.join(tuning.doubts)}; measured again before a large job, or by: caan tune")


def _age(seconds: float) -> str:
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds / size)
            return f"{number} {name}{'s' if number > 1 else ''} ago"
    return "just now"
