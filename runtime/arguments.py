"""Arguments that stand in each other's place, as a path for what it leads to: the message names the right call."""

from __future__ import annotations

from os import PathLike

from ..errors import InputError
from .galleries.gallery import Gallery


def check_is_gallery(gallery: object, other: object = None, call: str = "search(query, gallery)") -> None:
    """Raise InputError for what is not a Gallery; `other`, if that is one, stands in its place in this call."""
    if isinstance(gallery, Gallery):
        return
    if isinstance(other, Gallery):
        raise InputError(f"the gallery stands in another argument's place; write {call}")
    if isinstance(gallery, str | PathLike):
        raise InputError(f"the gallery is a path; open it: Gallery.open({_shown(gallery)})")
    raise InputError(
        f"the gallery must be a Gallery, as Gallery.open or encode_images give one, not {type(gallery).__name__}"
    )


def check_is_backend(backend: object) -> None:
    """Raise InputError for what a Retriever can't be made of."""
    if isinstance(backend, str | PathLike):
        raise InputError(f"Retriever takes an opened backend; for a path write Retriever.open({_shown(backend)})")
    if not hasattr(backend, "encode_images"):
        raise InputError(
            f"Retriever takes an opened backend, not {type(backend).__name__}; open a bundle: Retriever.open(PATH)"
        )


def check_is_retriever(retriever: object) -> None:
    """Raise InputError for what a BatchingRetriever can't be made of."""
    if isinstance(retriever, str | PathLike):
        raise InputError(
            "BatchingRetriever takes a Retriever; for a path write"
            f" BatchingRetriever(Retriever.open({_shown(retriever)}))"
        )
    if not hasattr(retriever, "search_many"):
        raise InputError(
            f"BatchingRetriever takes a Retriever, not {type(retriever).__name__}; open one: Retriever.open(PATH)"
        )


def check_is_path(path: object) -> None:
    """Raise InputError for what is not the path of a bundle."""
    if not isinstance(path, str | PathLike):
        raise InputError(f"Retriever.open takes the path of a bundle, not {type(path).__name__}")


def _shown(path: object) -> str:
    return f"'{str(path)[:200]}'"
