"""Reads pickled `Vocabulary` objects, as SCAN's first version saved them, without executing anything.

Python's unpicklers import and call what a file names, and allocate what it asks for. This one knows the few opcodes
that plain data and one object need, takes any class of that name for a dict of its attributes, and refuses the rest.
The opcodes: Python's pickletools.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterable
from typing import Any, Final

_CLASSES = ("Vocabulary", "Vocab")
# How protocols 0 and 1 construct an object: _reconstructor(Vocabulary, object, None).
_RECONSTRUCTOR = ("copy_reg._reconstructor", "copyreg._reconstructor")
_OBJECT = ("__builtin__.object", "builtins.object")
_ADVICE = "; save its word2idx as JSON: json.dump(vocabulary.word2idx, file)"

_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"}
_BYTES_OF_PYTHON_2 = {"STRING", "BINSTRING", "SHORT_BINSTRING"}
_CONSTANTS: Final[dict[str, object]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _RefusedError(ValueError):
    """What no Vocabulary holds."""


class _Named:
    """A class or function that the file names: never imported."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_vocabulary = name.rpartition(".")[2] in _CLASSES
        if not self.is_vocabulary and name not in (*_RECONSTRUCTOR, *_OBJECT):
            raise _RefusedError(f"it holds {name[:80]}, which is never executed{_ADVICE}")


class _Object(dict[str, Any]):
    """A Vocabulary: its attributes."""


def is_pickled(data: bytes) -> bool:
    """Whether this begins as a pickle does, and as no JSON."""
    return data.startswith((b"\x80", b"(", b"c", b"}"))


def read_pickled(data: bytes) -> dict[str, int]:
    """word → id, from a pickled Vocabulary or a pickled dict.

    Raises ValueError for damaged data, and, naming it, for anything but plain data and a Vocabulary.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.run(opcode.name, argument)
        content = machine.stack[-1]
    except _RefusedError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("it is damaged; copy it again") from error
    words = content.get("word2idx", content) if isinstance(content, dict) else None
    if not isinstance(words, dict) or not all(
        isinstance(word, str) and isinstance(number, int) for word, number in words.items()
    ):
        raise ValueError("it has no word2idx {word: id}" + _ADVICE)
    return words


class _Machine:
    """The stack, the stacks below marks, and the memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        """One opcode."""
        stack = self.stack
        if name in _NUMBERS or name in _TEXTS:
            stack.append(argument)
        elif name in _BYTES_OF_PYTHON_2:
            stack.append(argument.encode("latin-1").decode("utf-8"))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "MARK":
            self._below.append(stack)
            self.stack = []
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(_Named(argument.replace(" ", ".") if name == "GLOBAL" else ".".join(self._last(2))))
        elif name in ("INST", "OBJ", "NEWOBJ", "REDUCE", "BUILD"):
            self._run_object(name, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            self._run_container(name)

    def _run_container(self, name: str) -> None:
        stack = self.stack
        if name in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if name == "EMPTY_DICT" else [])
        elif name in _TUPLES:
            stack.append(tuple(self._last(_TUPLES[name])))
        elif name in ("DICT", "LIST", "TUPLE"):
            items = self._since_mark()
            self.stack.append(_pairs(items) if name == "DICT" else items if name == "LIST" else tuple(items))
        elif name in ("SETITEM", "SETITEMS"):
            items = self._last(2) if name == "SETITEM" else self._since_mark()
            self.stack[-1].update(_pairs(items))
        elif name in ("APPEND", "APPENDS"):
            items = self._last(1) if name == "APPEND" else self._since_mark()
            self.stack[-1].extend(items)
        else:
            raise _RefusedError(f"it holds the opcode {name}, which no Vocabulary needs{_ADVICE}")

    def _run_object(self, name: str, argument: Any) -> None:
        if name == "BUILD":
            (state,) = self._last(1)
            if not isinstance(self.stack[-1], _Object) or not isinstance(state, dict):
                raise _RefusedError(f"it holds a {type(self.stack[-1]).__name__} with a state{_ADVICE}")
            self.stack[-1].update(state)
            return
        if name == "INST":
            made, arguments = _Named(argument.replace(" ", ".")), self._since_mark()
        elif name == "OBJ":
            made, *arguments = self._since_mark()
        else:
            made, arguments = self._last(2)
        if name == "REDUCE" and made.name in _RECONSTRUCTOR and arguments[1].name in _OBJECT:
            made, arguments = arguments[0], []
        if not made.is_vocabulary or len(arguments) > 0:
            raise _RefusedError(f"it holds a call of {made.name[:80]}, which is never executed{_ADVICE}")
        self.stack.append(_Object())

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        taken = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return taken

    def _since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self._below.pop()
        return items


def _pairs(items: Iterable[Any]) -> dict[Any, Any]:
    keys = iter(items)
    pairs = list(zip(keys, keys, strict=True))
    if not all(isinstance(key, str | int) for key, _ in pairs):  # hashing nested tuples can take forever
        raise _RefusedError("it has a dict with other keys than words and ids" + _ADVICE)
    return dict(pairs)
