"""Checks of a checkpoint file's claimed sizes, before PyTorch allocates memory for them or reads out of bounds.

torch.load trusts the sizes in a file: a few bytes could exhaust memory, or expose other memory contents. So the pickle
is first read without PyTorch, with inert objects for all names, and every storage and tensor is measured.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .._files import open_regular
from ..errors import CheckpointError

_FOLDER = 0x10  # flag in a zip entry's attributes
_ZIP_MAGIC = b"PK\x03\x04"
# torch.save's legacy format: pickles of magic number, version, system info, content and storage keys.
_OLD_MAGIC, _OLD_PICKLES = 0x1950A86A20F9469CFC6C, 5
_STORAGES = {
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "QInt32Storage": 4,
    "UntypedStorage": 1,
}

# torch._utils' constructors of other kinds of tensors. Some allocate before they check the data.
_KINDS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantized tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without numbers, on the device 'meta'",
    "_rebuild_device_tensor_from_numpy": "a tensor of another device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of another device",
    "_rebuild_wrapper_subclass": "a tensor of a custom class",
}


def check_archive(path: Path) -> set[str]:
    """The names of all classes and functions that a file's pickles mention, as "module.name"; none is imported.

    Raises CheckpointError for a file that is empty, damaged, or claims more than it holds. A file in no known format
    passes: torch.load reports what is wrong.
    """
    names: set[str] = set()
    with open_regular(path) as file:
        start = file.read(len(_ZIP_MAGIC))
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not start:
            raise CheckpointError(f"{path} is empty; copy it again")
        if start == _ZIP_MAGIC:
            _check_zip(path, file, size, names)
        else:
            _check_old(path, file, size, names)
    return names


def _check_zip(path: Path, file: BinaryIO, size: int, names: set[str]) -> None:
    """PyTorch does not verify the archive's checksums, so damage inside a tensor would go unnoticed."""
    try:
        archive = zipfile.ZipFile(file)
        parts = archive.infolist()
    except Exception as error:  # zipfile raises nearly any type for damaged input
        raise _truncated(path) from error
    # PyTorch neither compresses entries nor overlaps them: entries larger than the file are a zip bomb.
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise CheckpointError(f"{path} is compressed, which torch.save never does; save it again with torch.save")
    if sum(part.file_size for part in parts) > size or len({part.filename for part in parts}) < len(parts):
        raise CheckpointError(f"{path} is corrupted: its parts are larger than the file; copy it again")
    # PyTorch does not read an entry marked as a folder and returns uninitialized memory.
    marked = [part.filename for part in parts if part.external_attr & _FOLDER]
    try:
        damaged = archive.testzip()
        content = [archive.read(part) for part in parts if part.filename.endswith("/data.pkl")]
    except MemoryError:
        raise
    except Exception as error:
        raise _truncated(path) from error
    if marked:
        raise CheckpointError(f"{path} is corrupted: its part {marked[0]} is marked as a folder; copy it again")
    if damaged is not None:
        raise CheckpointError(f"{path} is corrupted: the checksum of its part {damaged} is wrong; copy it again")
    sizes = {part.filename.partition("/data/")[2]: part.file_size for part in parts}
    for pickled in content:
        _measure(path, io.BytesIO(pickled), 1, lambda key, claimed: claimed <= sizes.get(key, -1), names)


def _check_old(path: Path, file: BinaryIO, size: int, names: set[str]) -> None:
    """The format of torch.save before 1.6: storages follow the pickles, which hold their sizes."""
    storages: dict[str, int] = {}

    def fits(key: str, claimed: int) -> bool:
        storages[key] = claimed
        return sum(storages.values()) <= size

    try:
        if _Measuring(file, fits, names).load() != _OLD_MAGIC:
            return
    except Exception:  # torch.load will reject it
        return
    _measure(path, file, _OLD_PICKLES - 1, fits, names)


def _measure(path: Path, file: BinaryIO, pickles: int, fits: Callable[[str, int], bool], names: set[str]) -> None:
    """Raise CheckpointError unless every storage `fits`, by its key and bytes, and every tensor its storage."""
    try:
        for _ in range(pickles):
            _Measuring(file, fits, names).load()
    except _Unusable as kind:
        raise CheckpointError(
            f"{path} holds {kind}; CAAN's parameters are plain tensors of float32: save those with torch.save"
        ) from None
    except _TooLarge as claim:
        raise CheckpointError(f"{path} is corrupted: {claim}, more than the file holds; copy it again") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle makes the unpickler raise nearly any type
        raise CheckpointError(f"{path} can't be loaded: it is corrupted; copy it again") from error


def _truncated(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or corrupted; copy it again")


class _TooLarge(Exception):  # noqa: N818
    """A false size claim, in words."""


class _Unusable(Exception):  # noqa: N818
    """An unsupported kind of tensor, in words."""


class _Inert:
    """Stands in for any name in a pickle: can be called, filled and indexed, and does nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **named: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _Dict(dict[Any, Any]):
    def __setstate__(self, state: Any) -> None:
        pass


class _Storage:
    def __init__(self, elements: int, width: int) -> None:
        self.elements, self.width = elements, width  # width: bytes per element


# The pure Python unpickler: the C one allocates as many memo entries as a pickle claims.
class _Measuring(pickle._Unpickler):
    """Reads a pickle of torch.save without PyTorch. Raises _TooLarge for impossible sizes."""

    def __init__(self, file: BinaryIO, fits: Callable[[str, int], bool], names: set[str]) -> None:
        super().__init__(file, encoding="utf-8")
        self._fits, self._names = fits, names

    def find_class(self, module: str, name: str) -> Any:
        # As Python 3 and PyTorch read names that Python 2 or pickle protocol 2 wrote, such as __builtin__.list.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self._names.add(f"{module}.{name}")
        if module == "torch._utils" and name in _KINDS:
            raise _Unusable(_KINDS[name])
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _check_tensor
        if (module, name) == ("collections", "OrderedDict"):
            return _Dict
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return name
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        if pid[0] != "storage":  # a whole module, which torch.load rejects
            return _Inert()
        _, kind, key, _, elements, *_ = pid
        width = _STORAGES[kind] if isinstance(kind, str) else max(_STORAGES.values())
        if type(elements) is not int or elements < 0 or not self._fits(str(key), elements * width):
            raise _TooLarge(f"a tensor of {_counted(elements)} numbers")
        return _Storage(elements, width)


def _check_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Inert:
    if not isinstance(storage, _Storage):
        return _Inert()
    if len(shape) != len(strides) or any(type(size) is not int or size < 0 for size in (offset, *shape, *strides)):
        raise _TooLarge("a tensor of impossible sizes")
    # _rebuild_tensor_v3 has an untyped storage and a dtype argument.
    itemsize = next((part.itemsize for part in rest if isinstance(part, torch.dtype)), storage.width)
    end = 1 + offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and end * itemsize > storage.elements * storage.width:
        raise _TooLarge(f"a tensor that spans {_counted(end)} numbers")
    return _Inert()


def _counted(number: Any) -> str:
    """A number of arbitrary length, kept short."""
    return f"{number:,}" if type(number) is int and abs(number) < 1 << 63 else "more than any machine's"
