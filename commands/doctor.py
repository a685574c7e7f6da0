"""`caan doctor`: what works on this machine."""

from __future__ import annotations

import click

from .. import __version__
from . import options
from .output import show, show_json


@click.command(epilog=options.EXIT_CODES)
@options.as_json
def doctor(as_json: bool) -> None:
    """Say what is installed, which backends work here, and what to install for the others."""
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
