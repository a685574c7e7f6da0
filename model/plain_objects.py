"""Stand-ins for the classes that a checkpoint's pickle mentions: every object becomes plain data, no class is imported.

PyTorch's restricted unpickler accepts (callable, name) pairs in place of a class of that name. What a file may hold
beside tensors is thus limited to what the functions here return. An object of any other class is read as its
attributes and items, without its methods; a call of anything but a class's constructor is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

# As PyTorch types them: a class or function, or one in place of another's name.
Standin = Callable[..., Any] | tuple[Callable[..., Any], str]

# PyTorch looks through all stand-ins at every step of a pickle.
_MOST_NAMES = 200
_NUMBERS = "biufSU"  # NumPy's kinds of numbers and text; others hold Python objects or dates


class CodeError(Exception):
    """A pickle calls something that has no stand-in; holds its name."""


def standins(names: Collection[str]) -> list[Standin]:
    """Stand-ins for the names in a pickle ("module.name"), for `torch.serialization.safe_globals`.

    PyTorch prefers its own harmless classes, such as tensors and collections.OrderedDict, to a stand-in of that name.
    Raises CodeError if a file mentions more classes than any checkpoint does.
    """
    found = sorted(names)
    if len(found) > _MOST_NAMES:
        raise CodeError(f"{len(found)} classes, as {found[0]}")
    result: list[Standin] = []
    for name in found:
        module, _, last = name.rpartition(".")
        if name in _KNOWN:
            result.append((_KNOWN[name], name))
        elif module.startswith("pathlib") and last.endswith("Path"):
            result.append((_path, name))
        elif module in ("numpy.core.multiarray", "numpy._core.multiarray") and last in _NUMPY:
            result.append((_NUMPY[last], name))
        else:
            result.append((_unknown(name), name))
    # The types of what stand-ins return: PyTorch sets the attributes of these alone.
    return [*result, *((_KNOWN[name], name) for name in ("numpy.dtype", "numpy.ndarray") if name not in names)]


def attributes_of(value: object) -> dict[str, Any]:
    """The attributes of an object from a file; none for anything but a stand-in's result."""
    return vars(value) if isinstance(value, OrderedDict) else {}


def array_of(value: object) -> np.ndarray[Any, Any] | None:
    """A NumPy array from a file; None for anything else."""
    return value.values if isinstance(value, _Array) else None


def plain(value: object) -> object:
    """A NumPy array or dtype from a file as a Python number, list or text; anything else as it is."""
    if isinstance(value, _Array):
        return value.values.tolist() if value.values is not None else None
    return value.spec if isinstance(value, _Dtype) else value


class _Unknown(type):
    """The class of stand-ins for classes: making an object without its constructor is allowed, calling it is not."""

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        raise CodeError(cls.__qualname__)


def _unknown(name: str) -> type:
    def new(cls: type, *arguments: Any) -> OrderedDict[Any, Any]:
        if arguments:  # of a named tuple, say, whose names are in its class
            raise CodeError(name)
        # What PyTorch fills with both items and attributes.
        return OrderedDict()

    return _Unknown(name, (), {"__new__": new})


class _Dtype:
    """`numpy.dtype`."""

    def __init__(self, spec: Any = "O", *arguments: Any) -> None:
        self.spec = spec if isinstance(spec, str) else "O"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        if order in ("<", ">"):
            self.spec = order + self.spec.lstrip("<>=|")

    def real(self) -> np.dtype[Any]:
        """NumPy's own. Raises CodeError for one whose values are Python objects."""
        try:
            dtype = np.dtype(self.spec)
        except TypeError as error:
            raise CodeError(f"numpy.dtype({self.spec[:40]!r})") from error
        if dtype.kind not in _NUMBERS:
            raise CodeError(f"numpy.{dtype.name}")
        return dtype


class _Array:
    """`numpy.ndarray`; its values are known once its state is set."""

    values: np.ndarray[Any, Any] | None = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, content = state
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise CodeError("numpy.ndarray of Python objects")
        self.values = np.frombuffer(content, dtype.real()).reshape(shape, order="F" if is_fortran else "C")


def _scalar(dtype: Any, content: Any = b"") -> Any:
    """`numpy.core.multiarray.scalar` → a Python number or text."""
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise CodeError("a NumPy scalar of Python objects")
    return np.frombuffer(content, dtype.real(), 1)[0].item()


def _path(*parts: Any) -> str:
    return "/".join(str(part) for part in parts).replace("//", "/")


def _mapping(*arguments: Any, **named: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _list(items: Any = (), *arguments: Any) -> list[Any]:
    return list(items) if isinstance(items, list | tuple | set) else []


# Constructors that pickles call, and whose effect is known.
_KNOWN: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": _mapping,
    "collections.deque": _list,
    "builtins.frozenset": _list,
    "types.SimpleNamespace": _mapping,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
    "builtins.bytes": lambda *arguments: b"",  # empty ones: others are encoded text
    **dict.fromkeys(("datetime.datetime", "datetime.date", "datetime.timedelta"), lambda *arguments: None),
}
_NUMPY: dict[str, Callable[..., Any]] = {"scalar": _scalar, "_reconstruct": lambda *arguments: _Array()}
