"""`caan doctor`: what works on this machine."""

from __future__ import annotations

import json

import click

from .. import __version__
from . import options


@click.command(epilog=options.EXIT_CODES)
@options.as_json
def doctor(as_json: bool) -> None:
    """Say what is installed, which backends work here, and what to install for the others."""
    from ..runtime.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        click.echo(json.dumps(diagnosis.as_dict(), indent=2))
        return
    click.echo(f"caan {__version__}\nmachine  {diagnosis.machine}\nGPU      {', '.join(diagnosis.gpus) or 'none'}\n")
    for name, installed in diagnosis.packages.items():
        click.echo(f"  {name:<20} {installed or '–'}")
    click.echo()
    for check in diagnosis.checks:
        click.echo(f"{'✓' if check.ok else '✗'} {check.name:<27} {check.detail}")
        if check.advice:
            click.echo(f"    {check.advice}")
