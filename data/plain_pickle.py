"""Reads pickles that hold plain data: numbers, text, bytes, lists, dicts and NumPy arrays. Nothing in them is executed.

Python's own unpickler in Python, since the one in C allocates whatever a file claims. Every global it meets is one of
the few below, which build plain data, or an error.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError

_NUMBERS = "biuf"


def load_plain(content: bytes, name: str) -> Any:
    """The value of a pickle called `name`; arrays of numbers as NumPy arrays, arrays of objects as lists.

    Raises DataError for anything but plain data, and for a damaged pickle.
    """
    try:
        return _plain(_Unpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except _Refused as error:
        raise DataError(
            f"{name} is a pickle that holds {error}, not only plain data; nothing of it was executed"
        ) from error
    except Exception as error:  # a damaged pickle raises nearly any type
        raise DataError(f"{name} is not a pickle of plain data, or is damaged ({type(error).__name__})") from error


class _Refused(Exception):  # noqa: N818
    """What a pickle holds instead of plain data."""


class _Global:
    """A function or class of a pickle: only called with plain arguments."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _Dtype:
    def __init__(self, name: Any, *_: Any) -> None:
        self.name, self.order = str(name), "="

    def restore(self, state: Any) -> None:
        self.order = str(state[1])

    def numpy(self) -> np.dtype[Any]:
        dtype = np.dtype(self.name)
        return dtype if self.order not in "<>" else dtype.newbyteorder(self.order)  # type: ignore[arg-type]


class _Array:
    def __init__(self, *_: Any) -> None:
        self.shape: tuple[int, ...] = ()
        self.dtype, self.fortran = _Dtype("u1"), False
        self.content: Any = b""

    def restore(self, state: Any) -> None:
        _, self.shape, self.dtype, self.fortran, self.content = state

    def plain(self, done: dict[int, Any]) -> Any:
        if isinstance(self.content, list):
            return [_plain(item, done) for item in self.content]
        dtype = self.dtype.numpy()
        if dtype.kind not in _NUMBERS:
            raise _Refused(f"an array of {dtype}")
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        return np.frombuffer(content, dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _scalar(dtype: _Dtype, content: Any) -> Any:
    if dtype.numpy().kind not in _NUMBERS:
        raise _Refused(f"a number of type {dtype.name}")
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.numpy())[0].item()


def _from_buffer(content: Any, dtype: _Dtype, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.shape, array.dtype, array.fortran, array.content = shape, dtype, order == "F", bytes(content)
    return array


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise _Refused(f"text encoded as {encoding:.20}")
    return text.encode(encoding)


_GLOBALS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): dict,
    ("builtins", "bytearray"): bytes,
    ("__builtin__", "bytearray"): bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}


_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):  # type: ignore[misc]
    def find_class(self, module: str, name: str) -> Any:
        found = _GLOBALS.get((module, name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return _Global(found)

    def persistent_load(self, identity: Any) -> Any:
        raise _Refused("a reference to something outside")

    def _build(self) -> None:
        """BUILD, which otherwise sets any attribute of any object."""
        state = self.stack.pop()
        built = self.stack[-1]
        if not isinstance(built, _Array | _Dtype):
            raise _Refused(f"the state of a {type(built).__name__}")
        built.restore(state)

    dispatch: ClassVar[dict[int, Any]] = {**_InPython.dispatch, pickle.BUILD[0]: _build}


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with its arrays as NumPy's; done: by id, so that what is shared stays shared."""
    if isinstance(value, _Global | _Dtype):
        raise _Refused("a class or function")
    if isinstance(value, str | bytes | int | float | complex | None):
        return value
    if id(value) not in done:
        if isinstance(value, _Array):
            done[id(value)] = value.plain(done)
        elif isinstance(value, dict):
            done[id(value)] = {_plain(key, done): _plain(item, done) for key, item in value.items()}
        else:  # a list, tuple or set
            done[id(value)] = [_plain(item, done) for item in value]
    return done[id(value)]
