"""Every error a user can cause. Each class owns the exit code of the command that meets it.

Messages are one or two lines: what is wrong, where, and the command that mends it.

    CaanError                 1  something failed that is neither the user's input nor the machine
    ├── InputError            2  wrong usage or input; also a ValueError
    │   ├── CheckpointError   2  a file that is no checkpoint, is damaged, or does not fit the model
    │   ├── DataError         2  features, captions, vocabulary or data set
    │   ├── BundleError       2  a bundle or gallery that is damaged, newer or unsafe
    │   └── OutputError       2  a result that can't be written: it exists, no permission, disk full
    ├── ExportError           1  a graph failed its own validation; no bundle was written
    ├── GateError             3  an accuracy gate was missed
    ├── Overloaded            1  more requests wait than a BatchingRetriever's queue may hold
    ├── DeadlineExceeded      1  a request was not answered within its timeout; also a TimeoutError
    ├── Closed                1  a BatchingRetriever that takes no requests any more
    └── MissingError          4  something is not installed or not present on this machine
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress


class CaanError(Exception):
    """Base of all errors that caan raises on purpose."""

    exit_code = 1


class InputError(CaanError, ValueError):
    """Wrong usage or input."""

    exit_code = 2


class CheckpointError(InputError):
    """Not a checkpoint, a damaged one, or one whose parameters do not fit."""


class DataError(InputError):
    """Features, captions, a vocabulary or a data set that can't be used."""


class BundleError(InputError):
    """A bundle or gallery that is damaged, incomplete, newer than this version, or unsafe to open."""


class OutputError(InputError):
    """A result that can't be written: the target exists, permission is missing, or the disk is full."""


class ExportError(CaanError):
    """An exported graph that failed its validation. No bundle was written."""


class GateError(CaanError):
    """An accuracy gate that was missed."""

    exit_code = 3


class Overloaded(CaanError):  # noqa: N818
    """More requests wait than a BatchingRetriever's queue may hold: this one was refused at once, not computed."""


class DeadlineExceeded(CaanError, TimeoutError):  # noqa: N818
    """A request that was not answered within its timeout."""


class Closed(CaanError):  # noqa: N818
    """A BatchingRetriever that takes no requests any more: it was closed, its thread died, or its process forked."""


class MissingError(CaanError):
    """A package, device or execution provider that is not there."""

    exit_code = 4


class CaanWarning(UserWarning):
    """Input that was used, but not quite as given: a caption cut short, or one without a known word."""


class UnknownWordWarning(CaanWarning):
    """A caption has words that the model's vocabulary lacks: they count as unknown, and other items may be found."""


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Around imports of optional dependencies: a missing one is a MissingError with the command that installs it."""
    try:
        yield
    except ImportError as error:
        what = f"the package '{error.name}'" if error.name else f"a package that can be loaded ({error})"
        raise MissingError(f"{purpose} needs {what}; {install(extra)}") from error


def install(extra: str) -> str:
    """The command that installs an extra of this very caan, from where it was installed from.

    caan-deploy is published nowhere: whoever took its name in an index would be installed instead.
    """
    import json
    from importlib import metadata
    from pathlib import Path
    from urllib.parse import unquote, urlparse

    here = Path(__file__).resolve().parent
    place = str(here) if (here / "pyproject.toml").is_file() else ""
    with suppress(metadata.PackageNotFoundError, KeyError, ValueError):
        # Written by pip for what came from a folder, a file or an address (PEP 610).
        url = json.loads(metadata.distribution("caan-deploy").read_text("direct_url.json") or "{}")["url"]
        place = unquote(urlparse(url).path) if url.startswith("file:") else f"caan-deploy @ {url}"
    if place.startswith("caan-deploy @ "):
        return f"pip install 'caan-deploy[{extra}]{place.removeprefix('caan-deploy')}'"
    return f"pip install '{place}[{extra}]'" if place else f"in a checkout of caan: pip install '.[{extra}]'"
