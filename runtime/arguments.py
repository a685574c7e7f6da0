"""Catches swapped or wrongly typed arguments, such as a path instead of an opened gallery, and names the right call."""

from __future__ import annotations

from os import PathLike

from ..errors import InputError
from .galleries.gallery import Gallery


def check_is_gallery(gallery: object, other: object = None, call: str = "search(query, gallery)") -> None:
    """Raise InputError unless `gallery` is a Gallery. If `other` is one, the two arguments of `call` were swapped."""
    if isinstance(gallery, Gallery):
        return
    if isinstance(other, Gallery):
        raise InputError(f"the gallery is in the wrong argument; write {call}")
    if isinstance(gallery, str | PathLike):
        raise InputError(f"the gallery is a path; open it: Gallery.open({_quoted(gallery)})")
    raise InputError(f"the gallery must be a Gallery, from Gallery.open or encode_images, not {type(gallery).__name__}")


def check_is_backend(backend: object) -> None:
    """Raise InputError unless a Retriever can be built from it."""
    if isinstance(backend, str | PathLike):
        raise InputError(f"Retriever takes an opened backend; for a path write Retriever.open({_quoted(backend)})")
    if not hasattr(backend, "encode_images"):
        raise InputError(
            f"Retriever takes an opened backend, not {type(backend).__name__}; open a bundle: Retriever.open(PATH)"
        )


def check_is_retriever(retriever: object) -> None:
    """Raise InputError unless a BatchingRetriever can be built from it."""
    if isinstance(retriever, str | PathLike):
        raise InputError(
            "BatchingRetriever takes a Retriever; for a path write"
            f" BatchingRetriever(Retriever.open({_quoted(retriever)}))"
        )
    if not hasattr(retriever, "search_many"):
        raise InputError(
            f"BatchingRetriever takes a Retriever, not {type(retriever).__name__}; open one: Retriever.open(PATH)"
        )


def check_is_path(path: object) -> None:
    """Raise InputError unless it is a path."""
    if not isinstance(path, str | PathLike):
        raise InputError(f"Retriever.open takes the path of a bundle, not {type(path).__name__}")


def _quoted(path: object) -> str:
    return f"'{str(path)[:200]}'"
