"""The program `caan`: its commands (commands/, a file each) in one group, and how errors and warnings are reported.

Commands import heavy modules inside the functions that need them, so that `--help` is instant.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn, TextIO

import click

from . import __version__
from .commands import options
from .commands.bench import bench
from .commands.build_engine import build_engine
from .commands.convert import convert
from .commands.data import data
from .commands.demo import demo
from .commands.demo_world import demo_world
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.explain import explain
from .commands.export import export
from .commands.index import compact, delete, index
from .commands.inspect import inspect
from .commands.output import log
from .commands.search import search
from .commands.sketch import sketch
from .commands.surroundings import ended_by_signals, usable_streams
from .commands.train import train
from .commands.tune import tune
from .errors import CaanError, CaanWarning, InputError

# Of each command, since some are programs of their own.
_HELP = {"help_option_names": ["-h", "--help"]}


@click.group(epilog=options.EXIT_CODES, context_settings=_HELP)
@click.version_option(__version__, prog_name="caan")
def caan() -> None:
    """Export a trained CAAN to ONNX and search with it."""


for _command in (
    export, convert, build_engine, bench, train, data, evaluate, index, delete, compact, search, sketch, explain, demo,
    demo_world, inspect, tune, doctor,
):  # fmt: skip
    _command.context_settings.update(_HELP)
    caan.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `caan`."""
    _run(caan, "caan", arguments)


def export_main() -> NoReturn:
    """The command `caan-export`."""
    _run(export, "caan-export", None)


def build_engine_main() -> NoReturn:
    """The command `caan-build-engine`."""
    _run(build_engine, "caan-build-engine", None)


def bench_main() -> NoReturn:
    """The command `caan-bench`."""
    _run(bench, "caan-bench", None)


def _run(command: click.Command, name: str, arguments: Sequence[str] | None) -> NoReturn:
    warnings.showwarning = _show_warning
    with ended_by_signals():
        try:
            with usable_streams():
                # --help and --version return a code; a successful command returns None.
                code = command.main(arguments, name, standalone_mode=False)
                sys.exit(code or 0)
        except click.ClickException as error:
            message = io.StringIO()
            error.show(message)
            log(message.getvalue().rstrip("\n"))  # quotes user input
            sys.exit(error.exit_code)
        except click.Abort:
            log("Aborted!")
            sys.exit(1)
        except CaanError as error:
            log(f"Error: {error}")
            sys.exit(error.exit_code)
        except OSError as error:
            # Any use of a path may fail: a name that is too long, a folder without permission.
            if error.filename is None:  # from a library, with its own message
                remedy = "; name one with TMPDIR" if "temporary directory" in str(error) else ""
                log(f"Error: {error.strerror or error}{remedy}")
            else:
                log(f"Error: can't use {str(error.filename)[:80]!r}: {error.strerror}; name another path")
            sys.exit(InputError.exit_code)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, CaanWarning):
        log(f"Warning: {message}")
