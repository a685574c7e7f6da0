"""All errors a user can cause. Each class defines the exit code of a command that fails with it.

Messages are one or two lines: what is wrong, where, and the command that fixes it.

    CaanError                 1  a failure that is not due to the user's input or the machine
    ├── InputError            2  wrong usage or input; also a ValueError
    │   ├── CheckpointError   2  a file that is not a checkpoint, is damaged, or does not fit the model
    │   │   └── VocabularyNeeded  2  a SCAN-family checkpoint, which holds no vocabulary
    │   ├── DataError         2  features, captions, vocabulary or data set
    │   ├── BundleError       2  a bundle or gallery that is damaged, newer or unsafe
    │   └── OutputError       2  a result that can't be written: it exists, no permission, disk full
    ├── ExportError           1  a graph failed its validation; no bundle was written
    ├── GateError             3  an accuracy gate was missed
    ├── Overloaded            1  more requests wait than a BatchingRetriever's queue may hold
    ├── DeadlineExceeded      1  a request was not answered within its timeout; also a TimeoutError
    ├── Closed                1  a BatchingRetriever that no longer accepts requests
    └── MissingError          4  something is not installed or not available on this machine
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class CaanError(Exception):
    """Base class of all errors that caan raises deliberately."""

    exit_code = 1


class InputError(CaanError, ValueError):
    """Wrong usage or input."""

    exit_code = 2


class CheckpointError(InputError):
    """A file that is not a checkpoint, is damaged, or whose parameters do not fit."""


class VocabularyNeeded(CheckpointError):  # noqa: N818
    """A SCAN-family checkpoint where only one with its vocabulary serves; the message holds the command for that."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} is a SCAN-family checkpoint, which holds no vocabulary; convert it once, with the one it was"
            f" trained with: {convert_command(path)}"
        )


class DataError(InputError):
    """Features, captions, a vocabulary or a data set that can't be used."""


class BundleError(InputError):
    """A bundle or gallery that is damaged, incomplete, newer than this version, or unsafe to open."""


class OutputError(InputError):
    """A result that can't be written: the target exists, permission is missing, or the disk is full."""


class ExportError(CaanError):
    """An exported graph that failed its validation. No bundle was written."""


class GateError(CaanError):
    """A failed accuracy gate."""

    exit_code = 3


class Overloaded(CaanError):  # noqa: N818
    """A BatchingRetriever's queue is full: the request was rejected at once, not computed."""


class DeadlineExceeded(CaanError, TimeoutError):  # noqa: N818
    """A request that was not answered within its timeout."""


class Closed(CaanError):  # noqa: N818
    """A BatchingRetriever that no longer accepts requests: it was closed, its thread died, or its process forked."""


class MissingError(CaanError):
    """A missing package, device or execution provider."""

    exit_code = 4


class CaanWarning(UserWarning):
    """Input that was used with changes or doubts, such as a truncated caption or one without a known word."""


class UnknownWordWarning(CaanWarning):
    """A caption has words outside the model's vocabulary; they count as unknown, which may change the hits."""


def convert_command(path: Path) -> str:
    """The command that gives a SCAN-family checkpoint its vocabulary."""
    return f"caan convert {shlex.quote(str(path))} --vocab VOCAB.json -o model.pt"


@contextmanager
def needs(extra: str, purpose: str) -> Iterator[None]:
    """Wrap imports of optional dependencies: turns an ImportError into a MissingError with the install command."""
    try:
        yield
    except ImportError as error:
        what = f"the package '{error.name}'" if error.name else f"a package that fails to load ({error})"
        raise MissingError(f"{purpose} needs {what}; {install(extra)}") from error


def install(extra: str) -> str:
    """The command that installs an extra of this caan from its original source.

    caan-deploy is not published: on a package index the name could belong to someone else.
    """
    import json
    from importlib import metadata
    from urllib.parse import unquote, urlparse

    here = Path(__file__).resolve().parent
    source = str(here) if (here / "pyproject.toml").is_file() else ""
    with suppress(metadata.PackageNotFoundError, KeyError, ValueError):
        # Written by pip for installations from a folder, file or URL (PEP 610).
        url = json.loads(metadata.distribution("caan-deploy").read_text("direct_url.json") or "{}")["url"]
        source = unquote(urlparse(url).path) if url.startswith("file:") else f"caan-deploy @ {url}"
    if source.startswith("caan-deploy @ "):
        return f"pip install 'caan-deploy[{extra}]{source.removeprefix('caan-deploy')}'"
    return f"pip install '{source}[{extra}]'" if source else f"in a checkout of caan: pip install '.[{extra}]'"
