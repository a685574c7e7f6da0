"""Reads pickles that hold plain data: numbers, text, bytes, lists, dicts and NumPy arrays. Nothing in them is executed.

Python's own unpickler in Python, since the one in C allocates whatever a file claims. It knows only the opcodes that
plain data needs, and a class or function that a file names is never imported: it is one of the few below, which build
plain data, or an error.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar

import numpy as np

from ..errors import DataError

_NUMBERS = "biuf"


class RefusedError(ValueError):
    """What a pickle holds instead of plain data."""


def load_plain(content: bytes, name: str) -> Any:
    """The value of a pickle called `name`; arrays of numbers as NumPy arrays, arrays of objects as lists.

    Raises DataError for anything but plain data, and for a damaged pickle.
    """
    try:
        return _read(_Unpickler(content, _GLOBALS, encoding="latin1"))
    except RefusedError as error:
        raise DataError(
            f"{name} is a pickle that holds {error}, not only plain data; nothing of it was executed"
        ) from error
    except ValueError as error:
        raise DataError(f"{name} is not a pickle of plain data, or is {error}") from error


def load_object(content: bytes, classes: Collection[str]) -> Any:
    """The value of a pickle without arrays, in which an object of a class of such a name is a dict of its attributes.

    Python 2's text is UTF-8. Raises RefusedError for anything else, and ValueError for a damaged pickle.
    """
    return _read(_Unpickler(content, _CONSTRUCTORS, classes, encoding="utf-8"))


def _read(unpickler: _Unpickler) -> Any:
    try:
        return _plain(unpickler.load(), {})
    except RefusedError:
        raise
    except Exception as error:  # a damaged pickle raises nearly any type
        raise ValueError(f"damaged ({type(error).__name__})") from error


class _Global:
    """A class or function that a pickle names: only called with plain arguments."""

    __slots__ = ("call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _Class(_Global):
    """The class of an object that is read as its attributes."""

    def __init__(self, name: str) -> None:
        super().__init__(name, self._make)

    def _make(self, *arguments: Any) -> _Object:
        if arguments:
            raise RefusedError(f"a call of {self.name[:80]}")
        return _Object()


class _Object(dict[str, Any]):
    """An object's attributes."""

    def restore(self, state: Any) -> None:
        if not isinstance(state, dict):  # slots
            raise RefusedError("an object with another state than attributes")
        self.update(state)


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
            raise RefusedError(f"an array of {dtype}")
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        return np.frombuffer(content, dtype).reshape(self.shape, order="F" if self.fortran else "C")


def _scalar(dtype: _Dtype, content: Any) -> Any:
    if dtype.numpy().kind not in _NUMBERS:
        raise RefusedError(f"a number of type {dtype.name}")
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, dtype.numpy())[0].item()


def _from_buffer(content: Any, dtype: _Dtype, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.shape, array.dtype, array.fortran, array.content = shape, dtype, order == "F", content
    return array


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise RefusedError(f"text encoded as {encoding:.20}")
    return text.encode(encoding)


def _bytes(content: Any = b"", encoding: str = "latin1") -> bytes:
    """What `bytearray` makes of bytes or text, but not of a size."""
    if isinstance(content, str):
        return _encode(content, encoding)
    if not isinstance(content, bytes):
        raise RefusedError("a bytearray that is not made of bytes")
    return content


def _dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    result = {}
    for key, value in pairs:
        if not isinstance(key, str | bytes | int | float):  # hashing nested tuples can take forever
            raise RefusedError("a dict with other keys than text and numbers")
        result[key] = value
    return result


def _object(*_: Any) -> Any:
    raise RefusedError("a call of object")


def _reconstructor(made: Any, base: Any, _: Any) -> Any:
    """How protocols 0 and 1 construct an object: `_reconstructor(Class, object, None)`."""
    if not isinstance(made, _Class) or not isinstance(base, _Global) or base.call is not _object:
        raise RefusedError("a call of _reconstructor")
    return made()


_Globals = dict[tuple[str, str], Callable[..., Any]]
_GLOBALS: _Globals = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _dict,
    ("builtins", "bytearray"): _bytes,
    ("__builtin__", "bytearray"): _bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
}
_CONSTRUCTORS: _Globals = {
    **{(module, "_reconstructor"): _reconstructor for module in ("copyreg", "copy_reg")},
    **{(module, "object"): _object for module in ("builtins", "__builtin__")},
}

_OPCODES = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING"
    " BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8"
    " EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 TUPLE EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT PUT BINPUT LONG_BINPUT MEMOIZE"
    " GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL INST OBJ"
)
_InPython: Any = pickle._Unpickler


def _dispatch() -> dict[int, Callable[[Any], None]]:
    """Opcode → what it does: as in Python for those above, an error for all others."""

    def refusal(name: str) -> Callable[[Any], None]:
        def refuse(_: Any) -> None:
            raise RefusedError(f"the opcode {name}")

        return refuse

    known = _OPCODES.split()
    return {
        ord(op.code): _InPython.dispatch[ord(op.code)] if op.name in known else refusal(op.name)
        for op in pickletools.opcodes
    }


class _Unpickler(_InPython):  # type: ignore[misc]
    def __init__(self, content: bytes, known: _Globals, classes: Collection[str] = (), *, encoding: str) -> None:
        super().__init__(io.BytesIO(content), encoding=encoding)
        self._known, self._classes = known, classes

    def find_class(self, module: str, name: str) -> _Global:
        full = f"{module}.{name}"
        if full.rpartition(".")[2] in self._classes:
            return _Class(full)
        if (module, name) not in self._known:
            raise RefusedError(full[:80])
        return _Global(full, self._known[module, name])

    def _reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Global):
            raise RefusedError(f"a call of a {type(called).__name__}")
        self.stack.append(called(*arguments))

    def _build(self) -> None:
        """BUILD, which otherwise sets any attribute of any object."""
        state = self.stack.pop()
        built = self.stack[-1]
        if not isinstance(built, _Array | _Dtype | _Object):
            raise RefusedError(f"a {type(built).__name__} with a state")
        built.restore(state)

    def _dict(self) -> None:
        items = self.pop_mark()
        self.stack.append(_dict(zip(items[::2], items[1::2], strict=True)))

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1].update(_dict([(key, value)]))

    def _set_items(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(_dict(zip(items[::2], items[1::2], strict=True)))

    def _bytearray(self) -> None:
        """BYTEARRAY8, which otherwise allocates what it claims."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.stack.append(bytes(self.read(min(size, 1 << 62))))

    dispatch: ClassVar[dict[int, Any]] = {
        **_dispatch(),
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.BUILD[0]: _build,
        pickle.DICT[0]: _dict,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.BYTEARRAY8[0]: _bytearray,
    }


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with its arrays as NumPy's; done: by id, so that what is shared stays shared."""
    if isinstance(value, _Global | _Dtype):
        raise RefusedError("a class or function")
    if isinstance(value, str | bytes | int | float | None):
        return value
    if id(value) not in done:
        if isinstance(value, _Array):
            done[id(value)] = value.plain(done)
        elif isinstance(value, dict):
            done[id(value)] = {key: _plain(item, done) for key, item in value.items()}
        else:  # a list or tuple
            done[id(value)] = [_plain(item, done) for item in value]
    return done[id(value)]
